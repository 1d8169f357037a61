//! MEASURE: what the features of a stage are worth, without changing them: linear separability, nearest neighbours,
//! contraction.

mod contraction;
mod lbfgs;
mod linear;
mod neighbours;
mod table;

pub use contraction::{Contraction, contraction};
pub use lbfgs::{Minimum, minimise};
pub use linear::{Fit, Linear};
pub use neighbours::neighbours;
pub use table::{Scaling, Table};
