//! Reads the configuration file and the secret files, with a limit on both.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::Problem;
use crate::secret::SecretText;

const TEXT_BYTES_MAX: u64 = 1024 * 1024;
const SECRET_BYTES_MAX: u64 = 16 * 1024;

/// The text of the configuration file.
pub(crate) fn read_text(path: &Path) -> Result<Zeroizing<String>, Problem> {
    read(path, TEXT_BYTES_MAX).map_err(|error| {
        Problem::new(format!(
            "could not read configuration file \"{}\": {}",
            path.display(),
            error
        ))
        .hint("Name the file with --config or SEAWALL_CONFIG, and let this user read it.")
    })
}

/// The secret in a file, without the newline at its end. `key` is the key that names the file.
pub(crate) fn read_secret(key: &str, path: &Path) -> Result<SecretText, Problem> {
    let text = read(path, SECRET_BYTES_MAX).map_err(|error| {
        Problem::new(format!(
            "could not read file \"{}\" of \"{key}\": {error}",
            path.display()
        ))
        .hint("The file holds the secret and nothing else; this user must be able to read it.")
    })?;
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.is_empty() || secret.contains(['\n', '\r', '\0']) {
        return Err(Problem::new(format!(
            "file \"{}\" of \"{key}\" is not one line of text",
            path.display()
        ))
        .hint("The file holds the secret and nothing else."));
    }
    Ok(SecretText::new(secret.to_owned()))
}

fn read(path: &Path, bytes_max: u64) -> io::Result<Zeroizing<String>> {
    // Room for all of it from the start: a buffer that grows leaves copies behind.
    let file = File::open(path)?;
    let room = usize::try_from(file.metadata()?.len().min(bytes_max)).unwrap_or_default();
    let mut text = Zeroizing::new(String::with_capacity(room + 1));
    let length = file.take(bytes_max + 1).read_to_string(&mut text)?;
    if length as u64 > bytes_max {
        return Err(io::Error::other(format!("larger than {bytes_max} bytes")));
    }
    Ok(text)
}
