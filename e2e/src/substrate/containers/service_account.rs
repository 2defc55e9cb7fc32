//! Who sds is to the API server: the rights that deploy/base gives it, and the token that it shows.
//!
//! Services and slices are those of the local mesh.

use kube_api::{Rule, Token};
use local_mesh::objects::NAMESPACE;

/// What sds shows to the API server.
pub const TOKEN: &str = "petmesh-e2e-containers";

/// The rights that deploy/base gives to sds, and no more.
pub fn token() -> Token {
    Token {
        value: TOKEN.to_owned(),
        user: format!("system:serviceaccount:{NAMESPACE}:sds"),
        rules: vec![Rule {
            namespaces: vec![NAMESPACE.to_owned()],
            resources: vec!["endpointslices".to_owned()],
            verbs: vec!["list".to_owned(), "watch".to_owned()],
        }],
        expires: None,
    }
}
