//! What holds of a pool in every order of events.

use proptest::prelude::*;

use super::*;

/// What happens to a pool.
#[derive(Clone, Debug)]
enum Step {
    Begin,
    /// The request of that number ends well, or breaks off; it may be waiting still.
    Finish(prop::sample::Index),
    Break(prop::sample::Index),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Begin),
        2 => any::<prop::sample::Index>().prop_map(Step::Finish),
        2 => any::<prop::sample::Index>().prop_map(Step::Break),
        1 => Just(Step::Sweep),
    ]
}

/// Never more streams than there is room for, no request waits while there is room, nothing queues
/// inside the library, and every permit comes back.
async fn obeys_the_laws(version: Version, streams: u32, max_connections: u32, steps: Vec<Step>) {
    let room = max_connections as usize * if version == Version::Http2 { streams as usize } else { 1 };
    let http2 = version == Version::Http2;
    let server = if http2 { Server::http2(streams).await } else { Server::silent().await };
    let fixture = Rc::new(Fixture::workers::<1>(server, version, policy(connections(max_connections))));
    let (started, total) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let mut live: Vec<oneshot::Sender<bool>> = Vec::new();
    for step in steps {
        match step {
            Step::Begin => {
                let (end, ended) = oneshot::channel();
                live.push(end);
                let fixture = Rc::clone(&fixture);
                let (started, total) = (Rc::clone(&started), Rc::clone(&total));
                tokio::task::spawn_local(async move {
                    let mut ended = pin!(ended);
                    let stream = tokio::select! {
                        biased;
                        _ = &mut ended => return,
                        stream = fixture[0].stream() => stream,
                    };
                    let mut stream = stream.unwrap();
                    if version == Version::Http2 {
                        stream.tx.head(&head(), true).await.unwrap();
                    }
                    started.set(started.get() + 1);
                    total.set(total.get() + 1);
                    let well = ended.await.unwrap_or(false);
                    started.set(started.get() - 1);
                    if well {
                        stream.finish();
                    }
                });
            }
            Step::Finish(at) | Step::Break(at) if !live.is_empty() => {
                let at = at.index(live.len());
                let _ = live.remove(at).send(matches!(step, Step::Finish(_)));
            }
            Step::Finish(_) | Step::Break(_) => {}
            Step::Sweep => fixture[0].clusters.sweep(),
        }
        assert!(started.get() <= room);
        until(|| started.get() == live.len().min(room)).await;
        if version == Version::Http2 {
            until(|| fixture[0].server.total.get() == total.get()).await;
        }
    }
    live.clear();
    until(|| started.get() == 0 && Rc::strong_count(&fixture) == 1).await;
    fixture[0].host.retire();
    until(|| fixture[0].breaker().connections.used() == 0).await;
    assert_eq!((fixture[0].breaker().pending.used(), fixture[0].breaker().connections.wanted()), (0, 0));
    assert_eq!(fixture[0].stats().upstream_rq_pending_active.get(), 0);
    assert_eq!(fixture[0].stats().upstream_cx_active.get(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn pools_obey_their_laws(
        http2 in any::<bool>(),
        streams in 1u32..4,
        max_connections in 1u32..4,
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let version = if http2 { Version::Http2 } else { Version::Http11 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let laws = obeys_the_laws(version, streams, max_connections, steps);
        runtime.block_on(local(laws));
    }
}
