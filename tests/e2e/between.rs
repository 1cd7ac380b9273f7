//! A man in the middle: what channel binding and `verify-full` notice, and that what we say of the binding on the wire is true.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::Result;
use pg::replication::ReplicationError;
use tests::between::{Seen, Trick};
use tests::secured::Keys;
use tests::wait::{DEADLINE, wait_for};
use tests::{Between, Scratch, Secured, case};

const REFUSED: i32 = 3;
const UNREACHABLE: i32 = 6;

fn with<'a>(keys: &Keys<'a>, more: &Keys<'a>) -> Vec<(&'a str, &'a str)> {
    keys.iter().chain(more).copied().collect()
}

fn seen(is_replication: bool, mechanism: &str, flag: &str) -> Seen {
    Seen {
        is_replication,
        mechanism: mechanism.to_owned(),
        flag: flag.to_owned(),
    }
}

/// What the man saw of at least `count` connections.
async fn saw(between: &Between, count: usize) -> Result<Vec<Seen>> {
    let mut all = Vec::new();
    wait_for("connections to come by", DEADLINE, async || {
        all.extend(between.take_seen());
        (all.len() >= count).then(|| all.clone())
    })
    .await
}

/// With the server's own key nobody could tell the man from the server: so he sees what we really send.
async fn the_binding_is_on_the_wire(secured: &Secured) -> Result<()> {
    let path = |file: &str| secured.certificates.path(file);
    let (certificate, key) = (path("server.crt"), path("server.key"));
    let between = Between::start(secured.cluster.port(), &certificate, &key, Trick::Read).await?;
    let port = between.port().to_string();
    let ca = secured.certificates.text("ca.crt");
    let keys = [
        ("user", "scram"),
        ("port", port.as_str()),
        ("sslmode", "verify-full"),
        ("sslrootcert", ca.as_str()),
    ];
    for (binding, mechanism, flag) in [
        ("require", "SCRAM-SHA-256-PLUS", "p"),
        ("prefer", "SCRAM-SHA-256-PLUS", "p"),
        ("disable", "SCRAM-SHA-256", "n"),
    ] {
        secured.let_in(&with(&keys, &[("channel_binding", binding)])).await?;
        let all = saw(&between, 3).await?;
        assert!(all.iter().any(|seen| seen.is_replication) && all.iter().any(|seen| !seen.is_replication));
        for one in all {
            assert_eq!(one, seen(one.is_replication, mechanism, flag), "{binding}");
        }
    }
    Ok(())
}

/// He has a certificate of his own, and nobody checks it.
async fn he_is_noticed_without_any_ca(secured: &Secured) -> Result<()> {
    let path = |file: &str| secured.certificates.path(file);
    let (certificate, key) = (path("impostor.crt"), path("impostor.key"));
    let server = secured.cluster.port();
    let between = Between::start(server, &certificate, &key, Trick::Read).await?;
    let port = between.port().to_string();
    let keys = [("user", "scram"), ("port", port.as_str()), ("sslmode", "require")];
    // Without the binding he is let through: the trap is a real one.
    secured.let_in(&with(&keys, &[("channel_binding", "disable")])).await?;
    between.take_seen();
    for binding in ["prefer", "require"] {
        let keys = with(&keys, &[("channel_binding", binding)]);
        let error = secured
            .keep_out(&keys, REFUSED, &["channel binding check failed"])
            .await?;
        assert!(matches!(error, ReplicationError::Authentication { .. }), "{error:?}");
        assert!(!error.is_transient());
    }
    let ca = secured.certificates.text("ca.crt");
    let verified = with(&keys, &[("sslmode", "verify-full"), ("sslrootcert", &ca)]);
    between.take_seen();
    let error = secured.keep_out(&verified, UNREACHABLE, &["UnknownIssuer"]).await?;
    assert!(matches!(error, ReplicationError::TlsHandshake { .. }), "{error:?}");
    assert_eq!(between.take_seen(), []);

    // He hides that the server can bind.
    let between = Between::start(server, &certificate, &key, Trick::HideBinding).await?;
    let port = between.port().to_string();
    let keys = [("user", "scram"), ("port", port.as_str()), ("sslmode", "require")];
    let prefer = with(&keys, &[("channel_binding", "prefer")]);
    let words = ["channel binding", "somebody may sit between"];
    let error = secured.keep_out(&prefer, REFUSED, &words).await?;
    assert!(matches!(error, ReplicationError::Authentication { .. }), "{error:?}");
    assert!(!error.is_transient());
    for one in saw(&between, 2).await? {
        assert_eq!(one, seen(one.is_replication, "SCRAM-SHA-256", "y"));
    }
    let require = with(&keys, &[("channel_binding", "require")]);
    let error = secured
        .keep_out(&require, REFUSED, &["channel binding is required"])
        .await?;
    assert!(matches!(error, ReplicationError::ChannelBinding { .. }), "{error:?}");
    // Nothing of the password went to him.
    for one in saw(&between, 2).await? {
        assert_eq!(one, seen(one.is_replication, "", ""));
    }
    Ok(())
}

/// He says that the server has no TLS.
async fn stripped_tls_is_noticed(secured: &Secured) -> Result<()> {
    let path = |file: &str| secured.certificates.path(file);
    let (certificate, key) = (path("impostor.crt"), path("impostor.key"));
    let server = secured.cluster.port();
    let between = Between::start(server, &certificate, &key, Trick::StripTls).await?;
    let port = between.port().to_string();
    let keys = [("user", "scram"), ("port", port.as_str())];
    let require = with(&keys, &[("sslmode", "require")]);
    let error = secured
        .keep_out(&require, UNREACHABLE, &["does not support TLS"])
        .await?;
    assert!(matches!(error, ReplicationError::TlsNotOffered { .. }), "{error:?}");
    assert_eq!(between.take_seen(), []);
    // With "prefer" he is only found out where he forgets to hide the server's mechanism. The SQL client does not look at that.
    let prefer = with(&keys, &[("sslmode", "prefer")]);
    let error = secured.session(&prefer).await.unwrap_err();
    assert!(error.to_string().contains("on a connection without TLS"), "{error}");
    let bound = with(&prefer, &[("channel_binding", "require")]);
    secured
        .keep_out(&bound, REFUSED, &["channel binding is required"])
        .await?;
    Ok(())
}

async fn every_trick(scratch: &Scratch, major: u32) -> Result<()> {
    let secured = Secured::start(scratch, major).await?;
    let names = Some("DNS:localhost,IP:127.0.0.1");
    secured
        .certificates
        .sign("impostor", "other", "server", names, 2)
        .await?;
    Box::pin(the_binding_is_on_the_wire(&secured)).await?;
    Box::pin(he_is_noticed_without_any_ca(&secured)).await?;
    Box::pin(stripped_tls_is_noticed(&secured)).await
}

#[test]
fn nobody_sits_between_us_and_postgres_15() {
    case("between_15", async |scratch| every_trick(&scratch, 15).await);
}

#[test]
fn nobody_sits_between_us_and_postgres_17() {
    case("between_17", async |scratch| every_trick(&scratch, 17).await);
}

#[test]
fn nor_between_us_and_the_other_majors_that_are_here() {
    for major in [13, 14, 18] {
        case("between_others", async |scratch| every_trick(&scratch, major).await);
    }
}
