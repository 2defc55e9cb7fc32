//! Roles, their bindings, and the question whether one may do something (`reviews` answers it).
//!
//! Roles are kept and not obeyed: what a token may do are the rules of the server's `Config`.
//!
//! Lines of the table in `resources`.

use serde_json::Value;

use super::{Column, GENERIC, Resource, items, text};

const GROUP: &str = "rbac.authorization.k8s.io";

/// `roles`
pub const ROLES: Resource =
    Resource { group: GROUP, plural: "roles", singular: "role", kind: "Role", ..GENERIC };

/// `rolebindings`
pub const ROLE_BINDINGS: Resource = Resource {
    group: GROUP,
    plural: "rolebindings",
    singular: "rolebinding",
    kind: "RoleBinding",
    columns: &[Column::text("Role")],
    wide_columns: BINDING_WIDE,
    cells: binding_cells,
    ..GENERIC
};

/// `clusterroles`
pub const CLUSTER_ROLES: Resource = Resource {
    group: GROUP,
    plural: "clusterroles",
    singular: "clusterrole",
    kind: "ClusterRole",
    namespaced: false,
    ..GENERIC
};

/// `clusterrolebindings`
pub const CLUSTER_ROLE_BINDINGS: Resource = Resource {
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    kind: "ClusterRoleBinding",
    namespaced: false,
    ..ROLE_BINDINGS
};

/// `selfsubjectaccessreviews`: `kubectl auth can-i`.
pub const ACCESS_REVIEWS: Resource = Resource {
    group: "authorization.k8s.io",
    plural: "selfsubjectaccessreviews",
    singular: "selfsubjectaccessreview",
    kind: "SelfSubjectAccessReview",
    namespaced: false,
    stored: false,
    verbs: &["create"],
    ..GENERIC
};

const BINDING_WIDE: &[Column] =
    &[Column::wide("Users"), Column::wide("Groups"), Column::wide("ServiceAccounts")];

fn binding_cells(binding: &Value) -> Vec<Value> {
    let role = format!("{}/{}", text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
    let subjects = |kind: &str| {
        let of_kind = items(binding, "/subjects").iter().filter(|subject| text(subject, "/kind") == kind);
        let names: Vec<_> = of_kind
            .map(|subject| match text(subject, "/namespace") {
                "" => text(subject, "/name").to_owned(),
                namespace => format!("{namespace}/{}", text(subject, "/name")),
            })
            .collect();
        names.join(", ").into()
    };
    vec![role.into(), subjects("User"), subjects("Group"), subjects("ServiceAccount")]
}
