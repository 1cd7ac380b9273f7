//! Is everything as it was promised? Facts → alarms → who is told.
//!
//! [`facts`] is what was seen, [`rules`] says what is wrong with it (pure), [`board`] knows what is open since when and what has changed,
//! [`metrics`] prints facts and alarms for Prometheus. Nothing here looks at anything by itself: `run` does, and asks each second.

pub mod alarm;
pub mod board;
pub mod facts;
pub mod metrics;
pub mod rules;

pub use alarm::{Alarm, Kind, Severity};
pub use facts::Facts;
pub use rules::judge;
