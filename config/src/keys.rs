//! The table of every key: its kind, its bounds and its default.
//!
//! Why a default is what it is stands with the field in `checked` and `repository`.

use std::time::Duration;

use pg::conninfo::{ChannelBinding, SslMode, TargetSessionAttrs};

use crate::units::ByteSize;

/// What a value may be.
#[derive(Debug)]
pub(crate) enum Kind {
    Text,
    /// An absolute path.
    Path,
    /// An absolute path of a file with a secret. The value is not repeated in a message: it may
    /// be the secret itself, typed into the wrong place.
    SecretFile,
    Flag,
    Count {
        min: i64,
        max: i64,
    },
    Duration {
        min: Duration,
        max: Duration,
    },
    Size {
        min: ByteSize,
        max: ByteSize,
    },
    Choice(&'static [&'static str]),
    List,
    /// A cron expression, or an interval.
    Schedule,
    /// An address and a port of this machine, or "off".
    Listen,
    /// One port, or a text with a port for each host.
    Ports,
    /// A secret that people put here and that we do not take; the text is the hint.
    Refused(&'static str),
    /// A key of libpq that we do not have; the text is the hint.
    Unsupported(&'static str),
}

impl Kind {
    /// Whether a key of this kind can be set at all.
    pub(crate) const fn is_usable(&self) -> bool {
        !matches!(self, Kind::Refused(_) | Kind::Unsupported(_))
    }
}

/// One key of a table.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// As it would be typed, without quotes.
    pub(crate) default: Option<&'static str>,
}

/// One table of the file.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) keys: &'static [Key],
    pub(crate) children: &'static [Section],
}

impl Section {
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    pub(crate) fn child(&self, name: &str) -> Option<&'static Section> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The names of the keys that can be used.
    pub(crate) fn key_names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().filter(|key| key.kind.is_usable()).map(|key| key.name)
    }

    /// Every key in this table and below, with the path of its table.
    pub(crate) fn flatten(&'static self, path: &str) -> Vec<(String, &'static Key)> {
        let own = self.keys.iter().map(|key| (path.to_owned(), key));
        let below = self.children.iter();
        own.chain(below.flat_map(|child| child.flatten(&join(path, child.name))))
            .collect()
    }
}

/// `path.name`, or `name` at the top.
pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

const fn key(name: &'static str, kind: Kind) -> Key {
    Key {
        name,
        kind,
        default: None,
    }
}

const fn key_or(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key {
        name,
        kind,
        default: Some(default),
    }
}

const fn count(min: i64, max: i64) -> Kind {
    Kind::Count { min, max }
}

const fn seconds(min: u64, max: u64) -> Kind {
    Kind::Duration {
        min: Duration::from_secs(min),
        max: Duration::from_secs(max),
    }
}

const fn kib(min: u64, max: u64) -> Kind {
    Kind::Size {
        min: ByteSize::new(min << 10),
        max: ByteSize::new(max << 10),
    }
}

/// The tables that a file has once.
pub(crate) static ROOT: Section = Section {
    name: "",
    keys: &[],
    children: &[
        Section {
            name: "repository",
            keys: &[
                key("url", Kind::Text),
                key_or("confirm", Kind::Choice(&["first", "any", "all"]), "first"),
            ],
            children: &[S3],
        },
        KEYS,
        LOG,
    ],
};

/// The tables of one copy of the repository.
pub(crate) static COPY: Section = Section {
    name: "",
    keys: &[key("url", Kind::Text)],
    children: &[S3],
};

/// The tables of one cluster.
pub(crate) static CLUSTER: Section = Section {
    name: "",
    keys: &[],
    children: &[
        POSTGRES, WAL, BACKUP, RETENTION, RESTORE, DRILL, OBJECTIVES, SCHEDULE, HTTP, STATUS,
    ],
};

/// The tables of one place that alarms go to.
pub(crate) static NOTIFY: Section = Section {
    name: "",
    keys: &[
        key(
            "type",
            Kind::Choice(&["webhook", "slack", "pagerduty", "email", "command", "ping"]),
        ),
        key("url", Kind::Text),
        key("url_file", Kind::SecretFile),
        key("routing_key_file", Kind::SecretFile),
        key("smtp", Kind::Text),
        key("from", Kind::Text),
        key("to", Kind::List),
        key("user", Kind::Text),
        key("password_file", Kind::SecretFile),
        key("command", Kind::List),
        key("template", Kind::Text),
        key("ca_file", Kind::Path),
        key_or("severity", Kind::Choice(&["warning", "page"]), "warning"),
        key_or("repeat", seconds(60, 365 * 86_400), "4h"),
        key_or("every", seconds(10, 86_400), "1m"),
    ],
    children: &[],
};

/// The table of one system beside PostgreSQL.
pub(crate) static COMPONENT: Section = Section {
    name: "",
    keys: &[
        key(
            "kind",
            Kind::Choice(&["files", "redis", "postgres-dump", "git", "config"]),
        ),
        key("cluster", Kind::Text),
        key("paths", Kind::List),
        key("exclude", Kind::List),
        key_or("one_file_system", Kind::Flag, "false"),
        key_or("read_all", Kind::Flag, "false"),
        key("repositories", Kind::List),
        key("secrets", Kind::List),
        key("secrets_recipient", Kind::Text),
        key("address", Kind::Text),
        key("sentinels", Kind::List),
        key("master", Kind::Text),
        key("user", Kind::Text),
        key(
            "password",
            Kind::Refused("Write it to a file that only this user can read and name that in \"password_file\"."),
        ),
        key("password_file", Kind::SecretFile),
        key("sentinel_user", Kind::Text),
        key("sentinel_password_file", Kind::SecretFile),
        key_or("tls", Kind::Flag, "false"),
        key("ca_file", Kind::Path),
        key("server_name", Kind::Text),
        key("cert_file", Kind::Path),
        key("key_file", Kind::Path),
        key("server", Kind::Path),
        key("host", Kind::Text),
        key("port", Kind::Ports),
        key("passfile", Kind::SecretFile),
        key("dbname", Kind::Text),
        key("sslmode", Kind::Choice(SslMode::WORDS)),
        key("sslrootcert", Kind::Text),
        key("sslcert", Kind::Path),
        key("sslkey", Kind::SecretFile),
        key("channel_binding", Kind::Choice(ChannelBinding::WORDS)),
        key("target_session_attrs", Kind::Choice(TargetSessionAttrs::WORDS)),
        key("connect_timeout", count(0, 3600)),
        key("bin_directory", Kind::Path),
        key("databases", Kind::List),
        key("exclude_databases", Kind::List),
        key("schemas", Kind::List),
        key("exclude_schemas", Kind::List),
        key("tables", Kind::List),
        key("exclude_tables", Kind::List),
        key_or("globals", Kind::Flag, "true"),
        key_or("role_passwords", Kind::Flag, "true"),
        key_or("row_counts", Kind::Flag, "true"),
        key_or("jobs", count(1, 64), "2"),
        key("schedule", Kind::Schedule),
        key("backup_age", seconds(60, 365 * 86_400)),
        key_or("duration_max", seconds(60, 30 * 86_400), "24h"),
        key("keep_within", seconds(60, 36_500 * 86_400)),
        key("keep_last", count(1, 1_000_000)),
        key("keep_daily", count(1, 36_500)),
        key("keep_weekly", count(1, 5_200)),
        key("keep_monthly", count(1, 1_200)),
        key("keep_yearly", count(1, 100)),
        key("before", Kind::List),
        key("after", Kind::List),
    ],
    children: &[],
};

/// The table of one group.
pub(crate) static GROUP: Section = Section {
    name: "",
    keys: &[
        key("cluster", Kind::Text),
        key("components", Kind::List),
        key("schedule", Kind::Schedule),
    ],
    children: &[],
};

const S3: Section = Section {
    name: "s3",
    keys: &[
        key("endpoint", Kind::Text),
        key_or("region", Kind::Text, "us-east-1"),
        key("path_style", Kind::Flag),
        key("conditional_put", Kind::Flag),
        key("ca_file", Kind::Path),
        key("access_key_id", Kind::Text),
        key(
            "secret_access_key",
            Kind::Refused(
                "Write it to a file that only this user can read and name that in \"secret_access_key_file\", or set AWS_SECRET_ACCESS_KEY.",
            ),
        ),
        key("secret_access_key_file", Kind::SecretFile),
        key(
            "session_token",
            Kind::Refused(
                "Write it to a file that only this user can read and name that in \"session_token_file\", or set AWS_SESSION_TOKEN.",
            ),
        ),
        key("session_token_file", Kind::SecretFile),
        key("storage_class", Kind::Text),
        key("object_lock", Kind::Choice(&["compliance", "governance"])),
        key("lock_for", seconds(86_400, 36_500 * 86_400)),
        key_or("request_timeout", seconds(1, 3600), "20s"),
        key_or("connect_timeout", seconds(1, 300), "10s"),
    ],
    children: &[],
};

const KEYS: Section = Section {
    name: "keys",
    keys: &[
        key_or("directory", Kind::Path, "/etc/seawall/keys"),
        key("host_key", Kind::Path),
        key("restore_key", Kind::Path),
        key("maintenance_key", Kind::Path),
        key("restore_key_command", Kind::List),
        key("maintenance_key_command", Kind::List),
    ],
    children: &[],
};

const LOG: Section = Section {
    name: "log",
    keys: &[
        key_or(
            "level",
            Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
            "info",
        ),
        key_or("format", Kind::Choice(&["text", "json"]), "text"),
    ],
    children: &[],
};

const POSTGRES: Section = Section {
    name: "postgres",
    keys: &[
        key("host", Kind::Text),
        key("port", Kind::Ports),
        key(
            "hostaddr",
            Kind::Unsupported(
                "Write the IP address in \"host\"; with sslmode = \"verify-full\" the certificate must name it.",
            ),
        ),
        key("target_session_attrs", Kind::Choice(TargetSessionAttrs::WORDS)),
        key(
            "load_balance_hosts",
            Kind::Unsupported("Leave it out: the servers are tried in the order of \"host\"."),
        ),
        key("user", Kind::Text),
        key(
            "password",
            Kind::Refused(
                "Write it to a file that only this user can read and name that in \"password_file\", or name a .pgpass file in \"passfile\".",
            ),
        ),
        key("password_file", Kind::SecretFile),
        key("passfile", Kind::SecretFile),
        key_or("dbname", Kind::Text, "postgres"),
        key("sslmode", Kind::Choice(SslMode::WORDS)),
        key("sslrootcert", Kind::Text),
        key("sslcert", Kind::Path),
        key("sslkey", Kind::SecretFile),
        key("channel_binding", Kind::Choice(ChannelBinding::WORDS)),
        key("connect_timeout", count(0, 3600)),
        key("bin_directory", Kind::Path),
        key("data_directory", Kind::Path),
    ],
    children: &[],
};

const WAL: Section = Section {
    name: "wal",
    keys: &[
        key_or("slot", Kind::Text, "seawall"),
        key_or("ship_interval", seconds(0, 3600), "1s"),
        key_or("tail_bytes_max", kib(64, 16 << 10), "1MiB"),
        key_or("uploads_in_flight", count(1, 64), "4"),
        key_or("memory_max", kib(4 << 10, 16 << 20), "64MiB"),
        key_or("shutdown_timeout", seconds(1, 3600), "30s"),
        key_or(
            "on_unknown_history",
            Kind::Choice(&["new-lineage", "stop"]),
            "new-lineage",
        ),
        key_or("on_store_outage", Kind::Choice(&["hold", "degrade"]), "hold"),
        key_or("degrade_after", seconds(1, 3600), "10s"),
        key_or("retained_warn", kib(1 << 10, 1 << 40), "4GiB"),
        key_or("retained_page", kib(1 << 10, 1 << 40), "16GiB"),
        key("retained_drop", kib(1 << 10, 1 << 40)),
    ],
    children: &[],
};

const BACKUP: Section = Section {
    name: "backup",
    keys: &[
        key("jobs", count(1, 128)),
        key_or("uploads_in_flight", count(1, 64), "2"),
        key("rate_max", kib(64, 1 << 40)),
        key_or("source", Kind::Choice(&["local", "replication"]), "local"),
        key_or("stream_compression", Kind::Choice(&["none", "zstd"]), "none"),
        key_or("nice", count(0, 19), "5"),
        key_or("brake", Kind::Choice(&["off", "gentle", "auto"]), "auto"),
        key_or("progress_interval", seconds(1, 86_400), "2m"),
        key_or("duration_max", seconds(60, 30 * 86_400), "24h"),
        key_or("checkpoint", Kind::Choice(&["fast", "spread"]), "fast"),
        key_or("after_loss", Kind::Choice(&["automatic", "manual"]), "automatic"),
        key("last_known_good", Kind::List),
    ],
    children: &[],
};

const RETENTION: Section = Section {
    name: "retention",
    keys: &[
        key("window", seconds(60, 36_500 * 86_400)),
        key("keep_within", seconds(60, 36_500 * 86_400)),
        key("keep_last", count(1, 1_000_000)),
        key("keep_daily", count(1, 36_500)),
        key("keep_weekly", count(1, 5_200)),
        key("keep_monthly", count(1, 1_200)),
        key("keep_yearly", count(1, 100)),
        key_or("grace", seconds(120, 365 * 86_400), "48h"),
    ],
    children: &[],
};

const RESTORE: Section = Section {
    name: "restore",
    keys: &[
        key("jobs", count(1, 128)),
        key_or("prefetch_segments", count(0, 64), "8"),
        key("command_path", Kind::Path),
    ],
    children: &[],
};

const OBJECTIVES: Section = Section {
    name: "objectives",
    keys: &[
        key_or("rpo", seconds(1, 86_400), "1m"),
        key("rto", seconds(1, 30 * 86_400)),
        key_or("backup_age", seconds(60, 365 * 86_400), "36h"),
        key_or("verify_age", seconds(60, 3650 * 86_400), "8d"),
        key("drill_age", seconds(60, 3650 * 86_400)),
        key_or("disk_warn", count(1, 100), "60"),
        key_or("disk_page", count(1, 100), "80"),
        key_or("look_interval", seconds(1, 120), "30s"),
    ],
    children: &[],
};

const DRILL: Section = Section {
    name: "drill",
    keys: &[
        key("directory", Kind::Path),
        key_or("target", Kind::Choice(&["latest", "random"]), "latest"),
        key("assertions", Kind::List),
        key_or("nice", count(0, 19), "19"),
        key_or("timeout", seconds(60, 30 * 86_400), "12h"),
    ],
    children: &[],
};

const SCHEDULE: Section = Section {
    name: "schedule",
    keys: &[
        key("backup", Kind::Schedule),
        key("verify", Kind::Schedule),
        key_or("verify_share", count(1, 10_000), "30"),
        key("prune", Kind::Schedule),
        key("drill", Kind::Schedule),
    ],
    children: &[],
};

const HTTP: Section = Section {
    name: "http",
    keys: &[key_or("listen", Kind::Listen, "127.0.0.1:9808")],
    children: &[],
};

const STATUS: Section = Section {
    name: "status",
    keys: &[key_or("state_directory", Kind::Path, "/var/lib/seawall")],
    children: &[],
};
