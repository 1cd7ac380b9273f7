//! Repositories of clusters of any size, without their data: every object but the data packs is real, made by the writers of `store`. Of data
//! packs there is a name and a length, which is all that a backup of metadata, a plan and `prune` ask of them.

pub mod hollow;
pub mod increment;
pub mod neighbours;
pub mod place;
pub mod price;
pub mod program;
pub mod reading;
pub mod synthetic;
