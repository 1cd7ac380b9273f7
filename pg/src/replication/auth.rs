//! Proving who we are: trust, cleartext, MD5 and SCRAM-SHA-256 (with channel binding over TLS).
//!
//! Docs, "SASL Authentication" and "Start-up". The server chooses the method and is followed, as
//! libpq does; who does not want a password to travel in the clear sets `sslmode`. Methods that
//! need a library we do not have (GSS, SSPI) are an error with the method's number. Invariants: with
//! SCRAM the server must prove that it knows the password too, or the connection is dropped; with
//! `channel_binding=require` nothing is sent that a man in the middle could use, and nobody is
//! believed who lets us in without the binding.

use bytes::Bytes;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::frontend;

use super::error::ReplicationError;
use super::frame::{Authentication, Message};
use super::session::unexpected;
use super::wire::Wire;
use crate::conninfo::{ChannelBinding, ConnectOptions, Password, Server};

/// Requests that a server may make before it says yes or no.
const ROUNDS_MAX: usize = 10;

/// Answers the server until it accepts us.
pub(super) async fn authenticate(
    wire: &mut Wire,
    opts: &ConnectOptions,
    server: &Server,
) -> Result<(), ReplicationError> {
    let mut is_bound = false;
    for _ in 0..ROUNDS_MAX {
        let request = next_request(wire, opts).await?;
        if opts.channel_binding == ChannelBinding::Require && !is_bound {
            may_answer(&request, wire.is_tls())?;
        }
        match request {
            Authentication::Ok => return Ok(()),
            // One who has made a binding has no use for the password itself.
            Authentication::Cleartext | Authentication::Md5(_) if is_bound => {
                return Err(refuse(opts, "the server asks for a password once more"));
            }
            Authentication::Cleartext => {
                send_password(wire, password(opts, server)?.expose().as_bytes()).await?;
            }
            Authentication::Md5(salt) => {
                let secret = password(opts, server)?.expose().as_bytes();
                let hash = md5_hash(opts.user.as_bytes(), secret, salt);
                send_password(wire, hash.as_bytes()).await?;
            }
            Authentication::Sasl(mechanisms) => {
                is_bound = scram(wire, opts, password(opts, server)?, &mechanisms).await?;
            }
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

/// Whether this request can lead to a binding.
fn may_answer(request: &Authentication, is_tls: bool) -> Result<(), ReplicationError> {
    let reason = match request {
        Authentication::Sasl(_) if is_tls => return Ok(()),
        Authentication::Sasl(_) => "the connection has no TLS",
        Authentication::Ok => "the server lets us in without a password",
        Authentication::Cleartext => "the server asks for the password in the clear",
        Authentication::Md5(_) => "the server asks for an MD5 password",
        Authentication::SaslContinue(_) | Authentication::SaslFinal(_) | Authentication::Other(_) => {
            "the server uses another method of authentication"
        }
    };
    Err(ReplicationError::ChannelBinding { reason })
}

async fn next_request(wire: &mut Wire, opts: &ConnectOptions) -> Result<Authentication, ReplicationError> {
    loop {
        match wire.expect().await? {
            Message::Authentication(request) => return Ok(request),
            Message::Error(message) => {
                // Class 28 is "Invalid Authorization Specification"; anything else, such as a
                // server that is starting up, is not about us.
                return Err(if message.sqlstate.starts_with("28") {
                    let detail = message.detail.map_or_else(String::new, |detail| format!(": {detail}"));
                    ReplicationError::Authentication {
                        user: opts.user.clone(),
                        reason: format!("{}{detail}", message.message),
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

/// Chooses how to talk SCRAM. A binding is made where both sides can.
fn choose_mechanism(
    wire: &Wire,
    opts: &ConnectOptions,
    mechanisms: &[String],
) -> Result<(&'static str, sasl::ChannelBinding), ReplicationError> {
    let offers = |name: &str| mechanisms.iter().any(|mechanism| mechanism == name);
    let (plain, plus) = (offers(SCRAM_SHA_256), offers(SCRAM_SHA_256_PLUS));
    if plus && !wire.is_tls() {
        return Err(refuse(
            opts,
            "the server offers SCRAM-SHA-256-PLUS on a connection without TLS: somebody may have taken the TLS away",
        ));
    }
    let digest = wire.channel_binding();
    let reason = match (opts.channel_binding, digest) {
        (ChannelBinding::Prefer | ChannelBinding::Require, Some(digest)) if plus => {
            return Ok((SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(digest)));
        }
        (ChannelBinding::Require, Some(_)) => "the server does not offer SCRAM-SHA-256-PLUS",
        (ChannelBinding::Require, None) => "the server's certificate is signed with an algorithm that gives none",
        // "We could bind, you seem not to": a man in the middle who hid PLUS is found out.
        (ChannelBinding::Prefer, Some(_)) if plain => {
            return Ok((SCRAM_SHA_256, sasl::ChannelBinding::unrequested()));
        }
        _ if plain => return Ok((SCRAM_SHA_256, sasl::ChannelBinding::unsupported())),
        _ => {
            return Err(refuse(opts, "the server offers no SASL mechanism that is supported"));
        }
    };
    Err(ReplicationError::ChannelBinding { reason })
}

/// True when the exchange was tied to the TLS connection.
async fn scram(
    wire: &mut Wire,
    opts: &ConnectOptions,
    password: &Password,
    mechanisms: &[String],
) -> Result<bool, ReplicationError> {
    let (mechanism, binding) = choose_mechanism(wire, opts, mechanisms)?;
    tracing::debug!(mechanism, tls = wire.is_tls(), "SASL authentication");
    let failed = |error: std::io::Error| refuse(opts, error.to_string());
    let mut exchange = ScramSha256::new(password.expose().as_bytes(), binding);
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
    exchange.finish(&verdict.await?).map_err(failed)?;
    Ok(mechanism == SCRAM_SHA_256_PLUS)
}

async fn step(
    wire: &mut Wire,
    opts: &ConnectOptions,
    wanted: fn(Authentication) -> Option<Bytes>,
) -> Result<Bytes, ReplicationError> {
    let request = match next_request(wire, opts).await {
        // In an exchange about who we are, a message that the server cannot read is no trouble that passes.
        Err(ReplicationError::Server {
            sqlstate,
            message,
            detail,
            ..
        }) if sqlstate == "08P01" => {
            let detail = detail.map_or_else(String::new, |detail| format!(": {detail}"));
            return Err(ReplicationError::Authentication {
                user: opts.user.clone(),
                reason: format!("{message}{detail}"),
                sqlstate: Some(sqlstate),
            });
        }
        request => request?,
    };
    wanted(request).ok_or_else(|| refuse(opts, "the server broke off the SASL exchange"))
}

async fn send_password(wire: &mut Wire, secret: &[u8]) -> Result<(), ReplicationError> {
    frontend::password_message(secret, wire.out())
        .map_err(|_| ReplicationError::protocol("password contains a zero byte"))?;
    wire.flush().await
}

fn password<'a>(opts: &ConnectOptions, server: &'a Server) -> Result<&'a Password, ReplicationError> {
    let wanted = || refuse(opts, "the server wants a password and none is set");
    server.password.as_ref().ok_or_else(wanted)
}

fn refuse(opts: &ConnectOptions, reason: impl Into<String>) -> ReplicationError {
    ReplicationError::Authentication {
        user: opts.user.clone(),
        reason: reason.into(),
        sqlstate: None,
    }
}
