//! stub
pub mod kernel;
