//! A message by SMTP.

use std::path::Path;

use anyhow::Context as _;
use config::Email;
use lettre::message::{Mailbox, header::ContentType};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};

use super::Message;

/// Sends it to all.
pub async fn send(email: &Email, ca_file: Option<&Path>, message: &Message) -> anyhow::Result<()> {
    let mailbox = |address: &String| -> anyhow::Result<Mailbox> {
        address
            .parse()
            .with_context(|| format!("\"{address}\" is no address of e-mail"))
    };
    let mut letter = lettre::Message::builder()
        .from(mailbox(&email.from)?)
        .subject(message.title())
        .header(ContentType::TEXT_PLAIN);
    for address in &email.to {
        letter = letter.to(mailbox(address)?);
    }
    let letter = letter.body(message.body())?;
    transport(email, ca_file)?
        .send(letter)
        .await
        .context("the mail server did not take it")?;
    Ok(())
}

fn transport(email: &Email, ca_file: Option<&Path>) -> anyhow::Result<AsyncSmtpTransport<Tokio1Executor>> {
    let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(&email.smtp);
    let mut builder = builder.context("\"smtp\" makes no sense")?;
    if let Some(path) = ca_file {
        let pem = std::fs::read(path).with_context(|| format!("cannot read \"{}\"", path.display()))?;
        let host = email.smtp.split("://").nth(1).unwrap_or_default();
        let host = host.split(['/', ':', '?']).next().unwrap_or_default();
        let parameters = TlsParameters::builder(host.to_owned())
            .add_root_certificate(Certificate::from_pem(&pem)?)
            .build_rustls()?;
        builder = builder.tls(match email.smtp.starts_with("smtps://") {
            true => Tls::Wrapper(parameters),
            false => Tls::Required(parameters),
        });
    }
    if let Some((user, password)) = &email.login {
        builder = builder.credentials(Credentials::new(user.clone(), password.expose().to_owned()));
    }
    Ok(builder.build())
}
