//! What holds of a pool in every order of events.

use proptest::prelude::*;

use super::*;

/// What happens to the pools of a cluster; the first number is the worker's.
#[derive(Clone, Debug)]
enum Step {
    Begin(prop::sample::Index),
    /// The request of that number ends well, or breaks off; it may be waiting still.
    Finish(prop::sample::Index, prop::sample::Index),
    Break(prop::sample::Index, prop::sample::Index),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => index().prop_map(Step::Begin),
        2 => (index(), index()).prop_map(|(worker, at)| Step::Finish(worker, at)),
        2 => (index(), index()).prop_map(|(worker, at)| Step::Break(worker, at)),
        1 => Just(Step::Sweep),
    ]
}

/// A worker's requests.
#[derive(Default)]
struct Requests {
    live: Vec<oneshot::Sender<bool>>,
    /// Those that have a stream now, and all that had one.
    started: Rc<Cell<usize>>,
    total: Rc<Cell<usize>>,
}

impl Requests {
    fn begin<const N: usize>(&mut self, fixtures: &Rc<[Fixture; N]>, worker: usize) {
        let (end, ended) = oneshot::channel();
        self.live.push(end);
        let fixtures = Rc::clone(fixtures);
        let (started, total) = (Rc::clone(&self.started), Rc::clone(&self.total));
        tokio::task::spawn_local(async move {
            let mut ended = pin!(ended);
            let stream = tokio::select! {
                biased;
                _ = &mut ended => return,
                stream = fixtures[worker].stream() => stream,
            };
            let mut stream = stream.unwrap();
            if fixtures[worker].version == Version::Http2 {
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

    fn waiting(&self) -> usize {
        self.live.len().saturating_sub(self.started.get())
    }
}

/// Never more streams than there is room for, no request waits while there is room, nothing queues
/// inside the library, and every permit comes back.
async fn obeys_the_laws<const N: usize>(version: Version, streams: u32, max: u32, steps: Vec<Step>) {
    let http2 = version == Version::Http2;
    let each = if http2 { streams as usize } else { 1 };
    let server = if http2 { Server::http2(streams).await } else { Server::silent().await };
    let fixtures = Rc::new(Fixture::workers::<N>(server, version, policy(connections(max))));
    let mut workers: [Requests; N] = std::array::from_fn(|_| Requests::default());
    let used = || fixtures[0].breaker().connections.used();
    for step in steps {
        match step {
            Step::Begin(worker) => {
                let worker = worker.index(N);
                workers[worker].begin(&fixtures, worker);
            }
            Step::Finish(worker, at) | Step::Break(worker, at) => {
                let live = &mut workers[worker.index(N)].live;
                if !live.is_empty() {
                    let _ = live.remove(at.index(live.len())).send(matches!(step, Step::Finish(..)));
                }
            }
            Step::Sweep => fixtures.iter().for_each(|fixture| fixture.clusters.sweep()),
        }
        let open =
            |worker: usize| usize::try_from(fixtures[worker].stats().upstream_cx_active.get()).unwrap();
        let at_rest = |worker: usize| {
            let requests = &workers[worker];
            let full = open(worker) > 0 && requests.started.get() == open(worker) * each;
            requests.waiting() == 0 || (full && used() >= max)
        };
        until(|| {
            // Each worker may have one connection, whatever the others have.
            assert!(used() < max + u32::try_from(N).unwrap());
            if N > 1 {
                fixtures.iter().for_each(|fixture| fixture.clusters.sweep());
            }
            (0..N).all(at_rest) && workers.iter().all(|worker| worker.started.get() <= worker.live.len())
        })
        .await;
        if N == 1 {
            let room = max as usize * each;
            until(|| workers[0].started.get() == workers[0].live.len().min(room)).await;
        }
        if http2 {
            let total = || workers.iter().map(|worker| worker.total.get()).sum::<usize>();
            until(|| fixtures[0].server.total.get() == total()).await;
        }
    }
    workers.iter_mut().for_each(|worker| worker.live.clear());
    until(|| workers.iter().all(|worker| worker.started.get() == 0) && Rc::strong_count(&fixtures) == 1)
        .await;
    fixtures.iter().for_each(|fixture| fixture.host.retire());
    until(|| used() == 0).await;
    assert_eq!((fixtures[0].breaker().pending.used(), fixtures[0].breaker().connections.wanted()), (0, 0));
    for fixture in &*fixtures {
        assert_eq!(fixture.stats().upstream_rq_pending_active.get(), 0);
        assert_eq!(fixture.stats().upstream_cx_active.get(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn pools_obey_their_laws(
        http2 in any::<bool>(),
        two_workers in any::<bool>(),
        streams in 1u32..4,
        max_connections in 1u32..4,
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let version = if http2 { Version::Http2 } else { Version::Http11 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(local(async {
            if two_workers {
                obeys_the_laws::<2>(version, streams, max_connections, steps).await;
            } else {
                obeys_the_laws::<1>(version, streams, max_connections, steps).await;
            }
        }));
    }
}
