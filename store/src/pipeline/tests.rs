//! Backups over generations of changing files, read back through the public readers.

mod faults;
mod fixture;
mod foreseen;
mod generations;
mod repair;
mod resume;
mod streams;
