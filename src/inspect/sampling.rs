//! Which samples are looked at where all would be too many.

/// At most so many of a number of samples, spread evenly.
pub fn spread(samples: usize, most: usize) -> Vec<usize> {
    let step = samples.div_ceil(most.max(1)).max(1);
    (0..samples).step_by(step).collect()
}
