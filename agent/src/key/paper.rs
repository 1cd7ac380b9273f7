//! Keys on paper: printed, split, read again.

use std::fs::DirBuilder;
use std::io::Read as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use store::durable::create_new_with_mode;
use store::keys::Role;
use store::keys::file::write_opening;
use store::keys::paper;
use zeroize::Zeroizing;

use crate::cli::{KeyExportOptions, KeyFile};
use crate::exit::Failure;
use crate::open::Context;

/// Prints a key.
pub(super) fn export(context: &Context, options: &KeyExportOptions) -> anyhow::Result<()> {
    let role = match options.key {
        KeyFile::Restore => Role::Restore,
        KeyFile::Maintenance => Role::Maintenance,
        KeyFile::Host => {
            return Err(Failure::refused(
                "a host key needs no copy",
                "`wal-agent key add-host` makes another one at any time, with the restore key.",
            )
            .into());
        }
    };
    if let (Some(parts), Some(threshold)) = (options.parts, options.threshold)
        && parts < threshold
    {
        return Err(Failure {
            code: crate::exit::USAGE,
            message: format!("{threshold} parts would be needed, and there are {parts}"),
            hint: Some("Make --threshold no larger than --parts.".into()),
        }
        .into());
    }
    let key = context.opening_key(role)?;
    let texts = match (options.parts, options.threshold) {
        (Some(parts), Some(threshold)) => paper::split(role, &key, parts, threshold)?,
        _ => vec![paper::print(role, &key)?],
    };
    let Some(directory) = &options.directory else {
        for text in &texts {
            println!("{}", text.as_str());
        }
        return Ok(());
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("cannot make \"{}\"", directory.display()))?;
    for (number, text) in (1..).zip(&texts) {
        let path = directory.join(format!("seawall-{}-key-{number}.txt", context.cluster.name));
        create_new_with_mode(&path, text.as_bytes(), 0o600)
            .with_context(|| format!("cannot write \"{}\"", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// Makes a key file out of what was printed.
pub(super) fn import(context: &Context, files: &[PathBuf], output: &Path) -> anyhow::Result<()> {
    let mut text = Zeroizing::new(String::new());
    if files.is_empty() {
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
    }
    for file in files {
        let one = std::fs::read_to_string(file).with_context(|| format!("cannot read \"{}\"", file.display()))?;
        text.push_str(&Zeroizing::new(one));
        text.push('\n');
    }
    let (role, key) = paper::read(&text)?;
    if key.cluster != context.cluster.name {
        tracing::warn!(cluster = %key.cluster, "the key is of another cluster than the one that the configuration names");
    }
    write_opening(output, role, &key)?;
    println!(
        "\"{}\" is the {} key of cluster {}.",
        output.display(),
        store::keys::file::role_text(role),
        key.cluster
    );
    Ok(())
}
