//! What `map` does for each call, and so must cost little. What is done for each chunk of calls is
//! Python's: `_map.py`.

pub(crate) mod calls;
pub(crate) mod results;
pub(crate) mod rows;
