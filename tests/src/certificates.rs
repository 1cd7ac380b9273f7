//! Certificates for a test's servers and clients, made by openssl in the scratch directory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::scratch::{Scratch, write_private};
use crate::user;
use crate::wait::DEADLINE;

const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

/// A directory with `<name>.crt` and `<name>.key` of each certificate, readable by the server user.
#[derive(Debug, Clone)]
pub struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    /// With two CAs that do not know each other: `ca` and `other`.
    pub async fn create(scratch: &Scratch) -> Result<Self> {
        let this = Self {
            dir: scratch.dir("tls")?,
        };
        for ca in ["ca", "other"] {
            let mut args = vec!["req", "-x509", "-days", "2"];
            args.extend(KEY);
            let (key, certificate, subject) = (format!("{ca}.key"), format!("{ca}.crt"), format!("/CN={ca}"));
            args.extend(["-keyout", &key, "-out", &certificate, "-subj", &subject]);
            this.openssl(&args).await?;
        }
        Ok(this)
    }

    /// One of `ca` for this common name, with `names` (`DNS:localhost,IP:127.0.0.1`) as its subjectAltName. With less than one
    /// day it has run out already.
    pub async fn sign(&self, name: &str, ca: &str, common_name: &str, names: Option<&str>, days: i32) -> Result<()> {
        let file = |kind: &str| format!("{name}.{kind}");
        let (key, request, certificate, extensions) = (file("key"), file("csr"), file("crt"), file("ext"));
        let subject = format!("/CN={common_name}");
        let mut args = vec!["req", "-new"];
        args.extend(KEY);
        args.extend(["-keyout", &key, "-out", &request, "-subj", &subject]);
        self.openssl(&args).await?;
        let names = names.map_or_else(String::new, |names| format!("subjectAltName={names}\n"));
        let text = format!("basicConstraints=critical,CA:FALSE\n{names}");
        write_private(&self.dir.join(&extensions), text.as_bytes())?;
        let (ca_key, ca_certificate, days) = (format!("{ca}.key"), format!("{ca}.crt"), days.to_string());
        let mut args = vec!["x509", "-req", "-in", &request, "-out", &certificate, "-days", &days];
        args.extend(["-CA", &ca_certificate, "-CAkey", &ca_key, "-CAcreateserial"]);
        args.extend(["-extfile", &extensions]);
        self.openssl(&args).await
    }

    /// Runs openssl in the directory.
    pub async fn openssl(&self, args: &[&str]) -> Result<()> {
        let mut command = user::command("openssl");
        command.args(args).current_dir(&self.dir);
        user::run(command, DEADLINE).await?;
        Ok(())
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// The path as configuration files want it.
    pub fn text(&self, file: &str) -> String {
        self.path(file).display().to_string()
    }

    /// A copy of a file under another name, with a mode and an owner of its own; `root` only where we are root.
    pub fn copy(&self, file: &str, to: &str, mode: u32, root: bool) -> Result<String> {
        use std::os::unix::fs::{PermissionsExt, chown};
        let path = self.path(to);
        fs::copy(self.path(file), &path)?;
        if root {
            let (_, group) = user::server_user().context("we are not root")?;
            chown(&path, Some(0), Some(group))?;
        } else {
            user::give(&path)?;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(self.text(to))
    }

    /// Replaces the certificate and key that a server was started with by others; a reload makes it take them.
    pub fn replace(&self, old: &str, new: &str) -> Result<()> {
        for kind in ["crt", "key"] {
            let content = fs::read(self.path(&format!("{new}.{kind}")))?;
            write_private(Path::new(&self.path(&format!("{old}.{kind}"))), &content)?;
        }
        Ok(())
    }
}
