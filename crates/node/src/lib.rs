//! The node agent: pods from the API become running pods, probed and reported.
