//! The part of Envoy's v3 API that petmesh speaks, and the reader on it.
