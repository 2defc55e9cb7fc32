//! A DNS responder for the names of the mesh's Services, so that STRICT_DNS clusters resolve as in a cluster.
//!
//! It answers over UDP only, from a table that the supervisor keeps: `A` with the addresses of a Service's pods, an
//! empty answer for other types, NXDOMAIN for everything else. A Service keeps its name while its pods are down, as a
//! ClusterIP does.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use tokio::net::UdpSocket;

/// Seconds that an answer may be kept: a pod change must be seen soon.
const TTL: u32 = 1;

/// Addresses in one answer: the most that fits a reply of 512 bytes, which needs neither EDNS nor TCP.
const MAX_ADDRESSES: usize = 24;

/// The longest query that is read; a longer one is cut and therefore not understood.
const MAX_QUERY: usize = 1500;

/// Service name -> addresses of its pods, shared with the responder.
#[derive(Debug, Clone, Default)]
pub struct Names {
    addresses: Arc<RwLock<BTreeMap<String, Vec<Ipv4Addr>>>>,
    /// A fault that tests ask for: queries get no response.
    mute: Arc<AtomicBool>,
}

impl Names {
    /// Replaces the addresses of one Service.
    pub fn set(&self, service: &str, addresses: Vec<Ipv4Addr>) {
        self.addresses.write().unwrap_or_else(PoisonError::into_inner).insert(service.to_owned(), addresses);
    }

    /// Makes the responder silent, or lets it respond again.
    pub fn set_mute(&self, mute: bool) {
        self.mute.store(mute, Ordering::Relaxed);
    }

    fn get(&self, service: &str) -> Option<Vec<Ipv4Addr>> {
        self.addresses.read().unwrap_or_else(PoisonError::into_inner).get(service).cloned()
    }
}

/// Answers queries on `socket` until the task is dropped.
pub async fn serve(socket: UdpSocket, names: Names) {
    let mut buffer = [0; MAX_QUERY];
    loop {
        let (length, peer): (usize, SocketAddr) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // On Linux an ICMP error of an earlier reply surfaces here: the asker has gone, others have not.
            Err(error) => {
                tracing::debug!(%error, "DNS: cannot receive");
                continue;
            }
        };
        if names.mute.load(Ordering::Relaxed) {
            continue;
        }
        let Some(reply) = buffer.get(..length).and_then(|query| answer(query, &names)) else { continue };
        if let Err(error) = socket.send_to(&reply, peer).await {
            tracing::debug!(%error, %peer, "DNS: cannot answer");
        }
    }
}

/// The reply to one query; none if it is not a query at all.
fn answer(query: &[u8], names: &Names) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    let Some(question) = query.queries.first().filter(|_| query.metadata.op_code == OpCode::Query) else {
        reply.metadata.response_code = ResponseCode::NotImp;
        return reply.to_vec().ok();
    };
    reply.add_query(question.clone());
    match names.get(service_of(&question.name().to_ascii())) {
        None => reply.metadata.response_code = ResponseCode::NXDomain,
        Some(addresses)
            if question.query_type() == RecordType::A && question.query_class() == DNSClass::IN =>
        {
            reply.metadata.authoritative = true;
            for address in addresses.into_iter().take(MAX_ADDRESSES) {
                reply.add_answer(Record::from_rdata(question.name().clone(), TTL, RData::A(A(address))));
            }
        }
        Some(_) => reply.metadata.authoritative = true,
    }
    reply.to_vec().ok()
}

/// `pet.default.svc.cluster.local.` -> `pet`. Names of other namespaces stay whole and are therefore unknown.
fn service_of(name: &str) -> &str {
    let name = name.strip_suffix('.').unwrap_or(name);
    [".default.svc.cluster.local", ".default.svc", ".default"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;
    use hickory_proto::rr::Name;

    use super::*;

    fn ask(name: &str, kind: RecordType) -> (ResponseCode, Vec<Ipv4Addr>) {
        let names = Names::default();
        names.set("sds", vec![Ipv4Addr::new(127, 0, 1, 4), Ipv4Addr::new(127, 0, 1, 5)]);
        names.set("pet", Vec::new());
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let reply = Message::from_vec(&answer(&query.to_vec().unwrap(), &names).unwrap()).unwrap();
        assert_eq!(reply.metadata.id, query.metadata.id);
        let addresses = reply.answers.iter().map(|record| match &record.data {
            RData::A(A(address)) => *address,
            other => panic!("not an address: {other:?}"),
        });
        (reply.metadata.response_code, addresses.collect())
    }

    #[test]
    fn a_service_has_its_pods_addresses_under_each_of_its_names() {
        let pods = vec![Ipv4Addr::new(127, 0, 1, 4), Ipv4Addr::new(127, 0, 1, 5)];
        for name in ["sds", "sds.", "sds.default.svc.cluster.local.", "sds.default.svc", "sds.default"] {
            assert_eq!(ask(name, RecordType::A), (ResponseCode::NoError, pods.clone()), "{name}");
        }
    }

    #[test]
    fn no_ipv6_and_no_pods_are_empty_answers_and_not_unknown_names() {
        assert_eq!(ask("sds", RecordType::AAAA), (ResponseCode::NoError, vec![]));
        assert_eq!(ask("pet", RecordType::A), (ResponseCode::NoError, vec![]));
    }

    #[test]
    fn other_names_do_not_exist() {
        for name in ["nobody", "example.com.", "sds.elsewhere.svc.cluster.local."] {
            assert_eq!(ask(name, RecordType::A), (ResponseCode::NXDomain, vec![]), "{name}");
        }
    }

    #[test]
    fn noise_is_not_answered() {
        assert_eq!(answer(b"not a query", &Names::default()), None);
    }
}
