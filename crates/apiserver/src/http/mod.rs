//! The HTTP side: routes, negotiation, bodies, answers. Not responsible for objects: the registry is.

pub mod body;
pub mod decode;
pub mod negotiate;
pub mod objects;
pub mod query;
pub mod render;
pub mod respond;
pub mod route;
pub mod serve;
