//! Why a backup is kept, in words for the operator.

use std::fmt;

/// Why a backup is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The operator pinned it.
    Pinned,
    /// It is the newest, of all, of the newest lineage, or for a timeline that may still grow.
    Newest,
    /// It is the newest that was proven.
    NewestProven,
    /// The window begins with it.
    WindowBase,
    /// It is in the window.
    Window,
    /// `keep_within`.
    Within,
    /// `keep_last`.
    Last,
    /// `keep_daily`.
    Daily,
    /// `keep_weekly`.
    Weekly,
    /// `keep_monthly`.
    Monthly,
    /// `keep_yearly`.
    Yearly,
    /// It was stored after now: a clock is wrong.
    FromTheFuture,
    /// What a timeline of its lineage came from is not known.
    UnknownDescent,
    /// There are no rules.
    NoRules,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Pinned => "pinned",
            Reason::Newest => "newest",
            Reason::NewestProven => "newest proven",
            Reason::WindowBase => "base of the window",
            Reason::Window => "in the window",
            Reason::Within => "keep_within",
            Reason::Last => "keep_last",
            Reason::Daily => "keep_daily",
            Reason::Weekly => "keep_weekly",
            Reason::Monthly => "keep_monthly",
            Reason::Yearly => "keep_yearly",
            Reason::FromTheFuture => "stored in the future, a clock is wrong",
            Reason::UnknownDescent => "history of a timeline is missing",
            Reason::NoRules => "no rules",
        })
    }
}
