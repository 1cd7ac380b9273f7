//! Backups over generations of changing files, read back through the public readers.

mod faults;
mod fixture;
mod generations;
mod repair;
mod resume;
mod streams;
