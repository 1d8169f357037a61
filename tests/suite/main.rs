//! Tests of the library and of the program, one module a theme.

mod cleaning;
mod docs;
mod exports;
mod faults;
mod finite_differences;
mod flips;
mod images;
mod imports;
mod interruption;
mod kills;
mod networks;
mod operations;
mod pipelines;
mod planning;
mod program;
mod space;
mod staleness;
mod steps_of_networks;
mod training_step;
mod verification;
mod views;
mod windows;
mod zarr;
