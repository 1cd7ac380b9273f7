//! The real code of writers, sweeps and restores on a store in memory.

mod interleavings;
mod scheduled;
mod window;
