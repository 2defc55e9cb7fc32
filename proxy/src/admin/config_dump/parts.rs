//! What `/config_dump` consists of: Envoy's messages (`envoy.admin.v3`), as far as a mask or a resource may name their fields.

/// A part of the dump: its message, and its lists with their elements.
pub(super) struct Part {
    pub(super) message: &'static str,
    pub(super) lists: &'static [(&'static str, &'static Element)],
    /// Fields that are not lists.
    pub(super) fields: &'static [&'static str],
}

/// An element of a list: the field that holds the resource itself, of which type that is, and the others.
pub(super) struct Element {
    pub(super) name: &'static str,
    pub(super) resource: &'static str,
    pub(super) resource_type: &'static str,
    pub(super) fields: &'static [&'static str],
}

const FILE: &[&str] = &["last_updated"];
const DISCOVERED: &[&str] = &["version_info", "last_updated", "error_state", "client_status"];

const fn element(name: &'static str, resource: &'static str, resource_type: &'static str) -> Element {
    // Those of a file are named so.
    let fields = if name.as_bytes()[0] == b'S' { FILE } else { DISCOVERED };
    Element { name, resource, resource_type, fields }
}

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "envoy.config.listener.v3.Listener";
const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";
const ENDPOINTS: &str = "envoy.config.endpoint.v3.ClusterLoadAssignment";
const SECRET: &str = "envoy.extensions.transport_sockets.tls.v3.Secret";

static DYNAMIC_CLUSTER: Element = element("DynamicCluster", "cluster", CLUSTER);
static DYNAMIC_SECRET: Element = Element {
    name: "DynamicSecret",
    resource: "secret",
    resource_type: SECRET,
    fields: &["name", "version_info", "last_updated", "error_state", "client_status"],
};

/// In the order of Envoy's page.
pub(super) static PARTS: [Part; 7] = [
    Part {
        message: "BootstrapConfigDump",
        lists: &[],
        fields: &["bootstrap", "last_updated", "error_state"],
    },
    Part {
        message: "ClustersConfigDump",
        lists: &[
            ("static_clusters", &element("StaticCluster", "cluster", CLUSTER)),
            ("dynamic_active_clusters", &DYNAMIC_CLUSTER),
            ("dynamic_warming_clusters", &DYNAMIC_CLUSTER),
        ],
        fields: &["version_info"],
    },
    Part {
        message: "EndpointsConfigDump",
        lists: &[
            ("static_endpoint_configs", &element("StaticEndpointConfig", "endpoint_config", ENDPOINTS)),
            ("dynamic_endpoint_configs", &element("DynamicEndpointConfig", "endpoint_config", ENDPOINTS)),
        ],
        fields: &[],
    },
    Part {
        message: "ListenersConfigDump",
        lists: &[
            (
                "static_listeners",
                &Element {
                    name: "StaticListener",
                    resource: "listener",
                    resource_type: LISTENER,
                    fields: &["last_updated", "error_state"],
                },
            ),
            (
                "dynamic_listeners",
                &Element {
                    name: "DynamicListener",
                    resource: "",
                    resource_type: LISTENER,
                    fields: &[
                        "name",
                        "active_state",
                        "warming_state",
                        "draining_state",
                        "error_state",
                        "client_status",
                    ],
                },
            ),
        ],
        fields: &["version_info"],
    },
    Part {
        message: "ScopedRoutesConfigDump",
        lists: &[
            (
                "inline_scoped_route_configs",
                &Element {
                    name: "InlineScopedRouteConfigs",
                    resource: "",
                    resource_type: ROUTES,
                    fields: FILE,
                },
            ),
            (
                "dynamic_scoped_route_configs",
                &Element {
                    name: "DynamicScopedRouteConfigs",
                    resource: "",
                    resource_type: ROUTES,
                    fields: DISCOVERED,
                },
            ),
        ],
        fields: &[],
    },
    Part {
        message: "RoutesConfigDump",
        lists: &[
            ("static_route_configs", &element("StaticRouteConfig", "route_config", ROUTES)),
            ("dynamic_route_configs", &element("DynamicRouteConfig", "route_config", ROUTES)),
        ],
        fields: &[],
    },
    Part {
        message: "SecretsConfigDump",
        lists: &[
            (
                "static_secrets",
                &Element {
                    name: "StaticSecret",
                    resource: "secret",
                    resource_type: SECRET,
                    fields: &["name", "last_updated"],
                },
            ),
            ("dynamic_active_secrets", &DYNAMIC_SECRET),
            ("dynamic_warming_secrets", &DYNAMIC_SECRET),
        ],
        fields: &[],
    },
];
