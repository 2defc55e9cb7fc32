//! A certificate authority made at start, and the server certificate that it signs.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// What a TLS listener needs, and the CA for its clients.
pub struct Identity {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) ca_pem: String,
    pub(crate) ca_key: String,
}

/// Makes a CA (with a given key, or a new one) and a server certificate for these names and addresses.
///
/// A CA made again with the same key and name is the same to whoever trusts it.
///
/// # Errors
/// If the key is no PEM, or a name cannot stand in a certificate.
pub fn identity(ca_key: Option<&str>, names: &[String], ips: &[IpAddr]) -> io::Result<Identity> {
    let ca_key = match ca_key {
        Some(pem) => KeyPair::from_pem(pem).map_err(|error| io::Error::other(format!("ca_key: {error}")))?,
        None => KeyPair::generate().map_err(io::Error::other)?,
    };
    let ca_key_pem = ca_key.serialize_pem();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, "kube-api CA");
    let ca_pem = ca.self_signed(&ca_key).map_err(io::Error::other)?.pem();

    let subjects: Vec<_> = names.iter().cloned().chain(ips.iter().map(ToString::to_string)).collect();
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let mut server = CertificateParams::new(subjects).map_err(io::Error::other)?;
    server.distinguished_name.push(DnType::CommonName, "kube-api");
    let certificate = server.signed_by(&key, &Issuer::new(ca, ca_key)).map_err(io::Error::other)?;

    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Identity { config: Arc::new(config), ca_pem, ca_key: ca_key_pem })
}
