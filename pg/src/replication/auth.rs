//! Proving who we are: trust, cleartext, MD5 and SCRAM-SHA-256 (with channel binding over TLS).
//!
//! Docs, "SASL Authentication" and "Start-up". The server chooses the method and is followed, as
//! libpq does; who does not want a password to travel in the clear sets `sslmode`. Methods that
//! need a library we do not have (GSS, SSPI) are an error with the method's number. Invariant: with
//! SCRAM the server must prove that it knows the password too, or the connection is dropped.

use bytes::Bytes;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::frontend;

use super::error::ReplicationError;
use super::frame::{Authentication, Message};
use super::session::unexpected;
use super::wire::Wire;
use crate::conninfo::{ConnectOptions, Password};

/// Requests that a server may make before it says yes or no.
const ROUNDS_MAX: usize = 10;

/// Answers the server until it accepts us.
pub(super) async fn authenticate(wire: &mut Wire, opts: &ConnectOptions) -> Result<(), ReplicationError> {
    for _ in 0..ROUNDS_MAX {
        match next_request(wire, opts).await? {
            Authentication::Ok => return Ok(()),
            Authentication::Cleartext => {
                send_password(wire, password(opts)?.expose().as_bytes()).await?;
            }
            Authentication::Md5(salt) => {
                let secret = password(opts)?.expose().as_bytes();
                let hash = md5_hash(opts.user.as_bytes(), secret, salt);
                send_password(wire, hash.as_bytes()).await?;
            }
            Authentication::Sasl(mechanisms) => scram(wire, opts, &mechanisms).await?,
            Authentication::SaslContinue(_) | Authentication::SaslFinal(_) => {
                return Err(refuse(opts, "the server sent a SASL message out of order"));
            }
            Authentication::Other(method) => {
                return Err(refuse(opts, format!("method {method} is not supported")));
            }
        }
    }
    Err(refuse(opts, "the server asked too often"))
}

async fn next_request(wire: &mut Wire, opts: &ConnectOptions) -> Result<Authentication, ReplicationError> {
    loop {
        match wire.expect().await? {
            Message::Authentication(request) => return Ok(request),
            Message::Error(message) => {
                // Class 28 is "Invalid Authorization Specification"; anything else, such as a
                // server that is starting up, is not about us.
                return Err(if message.sqlstate.starts_with("28") {
                    ReplicationError::Authentication {
                        user: opts.user.clone(),
                        reason: message.message,
                        sqlstate: Some(message.sqlstate),
                    }
                } else {
                    message.into()
                });
            }
            // NegotiateProtocolVersion
            Message::Other(b'v') => {}
            other => return Err(unexpected(&other)),
        }
    }
}

async fn scram(wire: &mut Wire, opts: &ConnectOptions, mechanisms: &[String]) -> Result<(), ReplicationError> {
    let offers = |name: &str| mechanisms.iter().any(|mechanism| mechanism == name);
    let (mechanism, binding) = match wire.channel_binding() {
        Some(digest) if offers(SCRAM_SHA_256_PLUS) => {
            (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(digest))
        }
        // "We could bind, you seem not to": a man in the middle who hid PLUS is found out.
        Some(_) if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
        None if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        _ => {
            return Err(refuse(opts, "the server offers no SASL mechanism that is supported"));
        }
    };
    tracing::debug!(mechanism, tls = wire.is_tls(), "SASL authentication");
    let failed = |error: std::io::Error| refuse(opts, error.to_string());
    let mut exchange = ScramSha256::new(password(opts)?.expose().as_bytes(), binding);
    frontend::sasl_initial_response(mechanism, exchange.message(), wire.out()).map_err(failed)?;
    wire.flush().await?;
    let challenge = step(wire, opts, |request| match request {
        Authentication::SaslContinue(bytes) => Some(bytes),
        _ => None,
    });
    exchange.update(&challenge.await?).map_err(failed)?;
    frontend::sasl_response(exchange.message(), wire.out()).map_err(failed)?;
    wire.flush().await?;
    let verdict = step(wire, opts, |request| match request {
        Authentication::SaslFinal(bytes) => Some(bytes),
        _ => None,
    });
    exchange.finish(&verdict.await?).map_err(failed)
}

async fn step(
    wire: &mut Wire,
    opts: &ConnectOptions,
    wanted: fn(Authentication) -> Option<Bytes>,
) -> Result<Bytes, ReplicationError> {
    let request = next_request(wire, opts).await?;
    wanted(request).ok_or_else(|| refuse(opts, "the server broke off the SASL exchange"))
}

async fn send_password(wire: &mut Wire, secret: &[u8]) -> Result<(), ReplicationError> {
    frontend::password_message(secret, wire.out())
        .map_err(|_| ReplicationError::protocol("password contains a zero byte"))?;
    wire.flush().await
}

fn password(opts: &ConnectOptions) -> Result<&Password, ReplicationError> {
    opts.password
        .as_ref()
        .ok_or_else(|| refuse(opts, "the server wants a password and none is set"))
}

fn refuse(opts: &ConnectOptions, reason: impl Into<String>) -> ReplicationError {
    ReplicationError::Authentication {
        user: opts.user.clone(),
        reason: reason.into(),
        sqlstate: None,
    }
}
