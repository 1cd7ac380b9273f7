//! Who is let in, and whom we believe: TLS, names and authorities, client certificates, channel binding. Each question is asked of
//! the SQL connection (through `wal-agent`) and of the replication connection, with several major versions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::Result;
use pg::replication::ReplicationError;
use tests::secured::Keys;
use tests::wait::DEADLINE;
use tests::{Scratch, Secured, case, user, wait_until};

const USAGE: i32 = 2;
const REFUSED: i32 = 3;
const UNREACHABLE: i32 = 6;

/// These keys and more.
fn with<'a>(keys: &Keys<'a>, more: &Keys<'a>) -> Vec<(&'a str, &'a str)> {
    keys.iter().chain(more).copied().collect()
}

/// Counts connections of a role by what the server's log says of them: SQL and replication.
fn over_tls(secured: &Secured, role: &str) -> (usize, usize) {
    let log = secured.cluster.server_log();
    let count = |start: &str| {
        let begins = format!("{start}connection authorized: user={role} ");
        log.lines()
            .filter(|line| line.contains(&begins) && line.contains("SSL enabled"))
            .count()
    };
    (count("LOG:  "), count("LOG:  replication "))
}

async fn authorities_and_names(secured: &Secured) -> Result<()> {
    let certificates = &secured.certificates;
    let (ca, other) = (certificates.text("ca.crt"), certificates.text("other.crt"));
    let scram = [("user", "scram"), ("channel_binding", "require")];
    for keys in [
        &[("sslmode", "require")][..],
        &[("sslmode", "require"), ("sslrootcert", &ca)],
        &[("sslmode", "verify-ca"), ("sslrootcert", &ca), ("host", "127.0.0.2")],
        &[("sslmode", "verify-full"), ("sslrootcert", &ca)],
        &[("sslmode", "verify-full"), ("sslrootcert", &ca), ("host", "127.0.0.1")],
    ] {
        secured.let_in(&with(&scram, keys)).await?;
    }
    for (keys, words) in [
        (&[("sslmode", "require"), ("sslrootcert", &*other)][..], "UnknownIssuer"),
        (&[("sslmode", "verify-ca"), ("sslrootcert", &other)], "UnknownIssuer"),
        (&[("sslmode", "verify-full"), ("sslrootcert", &other)], "UnknownIssuer"),
        (
            &[("sslmode", "verify-full"), ("sslrootcert", &ca), ("host", "127.0.0.2")],
            "not valid for name",
        ),
    ] {
        let error = secured
            .keep_out(&with(&scram, keys), UNREACHABLE, &[words, "sslrootcert"])
            .await?;
        assert!(matches!(error, ReplicationError::TlsHandshake { .. }), "{error}");
    }
    let keys = with(&scram, &[("sslmode", "verify-full")]);
    let error = secured.keep_out(&keys, USAGE, &["needs sslrootcert"]).await?;
    assert!(matches!(error, ReplicationError::Tls { .. }), "{error}");

    // The system's store: the variable stands for it, as it does with libpq.
    let system = with(&scram, &[("sslrootcert", "system")]);
    let installation = secured.installation(&system)?;
    for (file, code) in [(&ca, 0), (&other, UNREACHABLE)] {
        let agent = installation.agent.clone().env("SSL_CERT_FILE", file);
        let output = agent.run(&["init", "--single-host"]).await?;
        output.assert_code(code)?;
    }
    Ok(())
}

/// The same server with other certificates, one after the other.
async fn other_certificates(secured: &Secured) -> Result<()> {
    let certificates = &secured.certificates;
    let ca = certificates.text("ca.crt");
    let keys = |host| {
        let mode = [("sslmode", "verify-full"), ("sslrootcert", ca.as_str()), ("host", host)];
        with(&[("user", "scram")], &mode)
    };
    certificates
        .sign("named", "ca", "localhost", Some("DNS:db.invalid,IP:127.0.0.1"), 2)
        .await?;
    replace_certificate(secured, "named").await?;
    // The common name says localhost; it does not count.
    secured
        .keep_out(&keys("localhost"), UNREACHABLE, &["not valid for name"])
        .await?;
    secured.let_in(&keys("127.0.0.1")).await?;
    certificates
        .sign("old", "ca", "server", Some("DNS:localhost,IP:127.0.0.1"), -1)
        .await?;
    replace_certificate(secured, "old").await?;
    let error = secured.keep_out(&keys("localhost"), UNREACHABLE, &["expired"]).await?;
    assert!(matches!(error, ReplicationError::TlsHandshake { .. }), "{error}");
    Ok(())
}

/// A reload takes a moment. Whoever trusts the certificate that the server shows has its CA in this place.
async fn replace_certificate(secured: &Secured, name: &str) -> Result<()> {
    let file = format!("{name}.crt");
    secured.certificates.replace("server", name)?;
    secured.cluster.exec("select pg_reload_conf()").await?;
    let shown = async || {
        let mut command = user::command("openssl");
        let address = format!("127.0.0.1:{}", secured.cluster.port());
        command.args(["s_client", "-starttls", "postgres", "-connect", &address]);
        let shown = user::output(command, DEADLINE).await.ok()?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let wanted = std::fs::read_to_string(secured.certificates.path(&file)).ok()?;
        shown.contains(wanted.trim()).then_some(())
    };
    tests::wait::wait_for("the server to show its new certificate", DEADLINE, shown).await
}

async fn client_certificates(secured: &Secured) -> Result<()> {
    let certificates = &secured.certificates;
    let ca = certificates.text("ca.crt");
    for (name, authority, common_name) in [
        ("certified", "ca", "certified"),
        ("twofold", "ca", "twofold"),
        ("stranger", "other", "certified"),
    ] {
        certificates.sign(name, authority, common_name, None, 2).await?;
    }
    let text = |file: String| certificates.text(&file);
    let files = |name: &str| (text(format!("{name}.crt")), text(format!("{name}.key")));
    let (certificate, key) = files("certified");
    let verified = [("sslmode", "verify-full"), ("sslrootcert", ca.as_str())];
    let certified = with(&verified, &[("user", "certified")]);
    let ours = [("sslcert", certificate.as_str()), ("sslkey", key.as_str())];

    let before = over_tls(secured, "certified");
    secured.let_in(&with(&certified, &ours)).await?;
    wait_until("the server's log", DEADLINE, async || {
        let (sql, replication) = over_tls(secured, "certified");
        sql > before.0 && replication > before.1 + 1
    })
    .await?;
    // With a password as well, and bound.
    let (certificate, key) = files("twofold");
    let both = [("user", "twofold"), ("sslcert", &*certificate), ("sslkey", &*key)];
    let both = with(&verified, &both);
    secured.let_in(&with(&both, &[("channel_binding", "require")])).await?;
    secured.let_in(&with(&both, &[("channel_binding", "disable")])).await?;

    // None, somebody else's, one of an authority that the server does not know.
    let words = ["certificate"];
    let error = secured.keep_out(&certified, REFUSED, &words).await?;
    assert_eq!(error.sqlstate(), Some("28000"), "{error}");
    let elses = with(&certified, &[("sslcert", &certificate), ("sslkey", &key)]);
    let error = secured.keep_out(&elses, REFUSED, &words).await?;
    assert_eq!(error.sqlstate(), Some("28000"), "{error}");
    let (certificate, key) = files("stranger");
    let strange = with(&certified, &[("sslcert", &certificate), ("sslkey", &key)]);
    let error = secured
        .keep_out(&strange, UNREACHABLE, &["fatal alert", "sslcert"])
        .await?;
    assert!(matches!(error, ReplicationError::TlsHandshake { .. }), "{error:?}");
    // The certificate does not stand for the password.
    let (certificate, key) = files("twofold");
    let scratch = secured.cluster.scratch();
    let wrong = scratch.write("etc/wrong-password", "wrong")?.display().to_string();
    let both = with(&verified, &[("user", "twofold"), ("password_file", &*wrong)]);
    let both = with(&both, &[("sslcert", &certificate), ("sslkey", &key)]);
    let error = secured.keep_out(&both, REFUSED, &["password"]).await?;
    assert_eq!(error.sqlstate(), Some("28P01"), "{error}");
    key_files(secured, &certified).await
}

/// What libpq refuses of a key file.
async fn key_files(secured: &Secured, certified: &Keys<'_>) -> Result<()> {
    let certificates = &secured.certificates;
    let certificate = certificates.text("certified.crt");
    let key = |mode, root| certificates.copy("certified.key", &format!("k{mode:o}{root}"), mode, root);
    let mut open = vec![
        (key(0o640, false)?, false),
        (key(0o604, false)?, false),
        (key(0o400, false)?, true),
    ];
    if user::server_user().is_some() {
        open.extend([
            (key(0o640, true)?, true),
            (key(0o660, true)?, false),
            (key(0o644, true)?, false),
        ]);
    }
    for (key, is_good) in &open {
        let keys = with(certified, &[("sslcert", &certificate), ("sslkey", key)]);
        if *is_good {
            secured.agent(&keys).await?.assert_code(0)?;
        } else {
            let words = ["lets others in", "0600", "cannot set up TLS"];
            secured.agent(&keys).await?.assert_refused(USAGE, &words)?;
        }
    }
    certificates
        .openssl(&[
            "pkcs8",
            "-topk8",
            "-in",
            "certified.key",
            "-out",
            "encrypted",
            "-passout",
            "pass:x",
        ])
        .await?;
    let encrypted = certificates.copy("encrypted", "encrypted.key", 0o600, false)?;
    let no_key = certificates.copy("certified.crt", "certificate.key", 0o600, false)?;
    let missing = certificates.text("missing.key");
    let another = certificates.text("twofold.key");
    for (key, words) in [
        (&encrypted, "is encrypted"),
        (&missing, "could not read file"),
        (&another, "cannot be used with the key"),
        (&no_key, "no private key"),
    ] {
        let keys = with(certified, &[("sslcert", &certificate), ("sslkey", key)]);
        let error = secured.keep_out(&keys, USAGE, &[words]).await?;
        assert!(matches!(error, ReplicationError::Tls { .. }), "{error}");
    }
    let alone = with(certified, &[("sslcert", &certificate)]);
    secured
        .agent(&alone)
        .await?
        .assert_refused(USAGE, &["sslcert needs sslkey"])
}

async fn bindings(secured: &Secured) -> Result<()> {
    let require = [("channel_binding", "require"), ("sslmode", "require")];
    for (user, reason) in [
        ("md5", "MD5"),
        ("clear", "in the clear"),
        ("trusted", "without a password"),
    ] {
        let prefer = [("user", user), ("sslmode", "require")];
        secured.let_in(&prefer).await?;
        let keys = with(&require, &[("user", user)]);
        let error = secured
            .keep_out(&keys, REFUSED, &["channel binding is required"])
            .await?;
        assert!(matches!(error, ReplicationError::ChannelBinding { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    let plain = [("user", "plain"), ("sslmode", "disable")];
    secured.let_in(&plain).await?;
    let keys = with(&plain, &[("channel_binding", "require")]);
    let error = secured
        .keep_out(&keys, REFUSED, &["channel binding is required"])
        .await?;
    assert!(error.to_string().contains("no TLS"), "{error}");
    // A socket has no TLS, whatever sslmode says; so it has no binding either.
    let directory = secured.cluster.socket_dir().display().to_string();
    let socket = [("user", "postgres"), ("host", &*directory), ("sslmode", "require")];
    secured.let_in(&socket).await?;
    let keys = with(&socket, &[("channel_binding", "require")]);
    let error = secured
        .keep_out(&keys, REFUSED, &["channel binding is required"])
        .await?;
    assert!(matches!(error, ReplicationError::ChannelBinding { .. }), "{error}");
    Ok(())
}

async fn every_question(scratch: &Scratch, major: u32) -> Result<()> {
    let secured = Secured::start(scratch, major).await?;
    Box::pin(authorities_and_names(&secured)).await?;
    Box::pin(client_certificates(&secured)).await?;
    Box::pin(bindings(&secured)).await?;
    // Last: it leaves the server with a certificate that nobody believes.
    Box::pin(other_certificates(&secured)).await
}

#[test]
fn postgres_15_lets_in_and_is_believed_as_configured() {
    case("tls_15", async |scratch| every_question(&scratch, 15).await);
}

#[test]
fn postgres_17_lets_in_and_is_believed_as_configured() {
    case("tls_17", async |scratch| every_question(&scratch, 17).await);
}

/// 16 is not among them: the one that set-up can get is built without TLS.
#[test]
fn the_other_majors_that_are_here_do_so_too() {
    for major in [13, 14, 18] {
        case("tls_others", async |scratch| every_question(&scratch, major).await);
    }
}
