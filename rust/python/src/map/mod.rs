//! The parts of `map` that run for each call and so must be fast. The parts that run for each chunk
//! are in Python: `_map/results.py`.

pub(crate) mod calls;
pub(crate) mod results;
pub(crate) mod rows;
