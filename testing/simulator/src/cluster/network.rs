//! The network between the machines of one cluster: octets in, octets out, late, lost, twice, or never.
//!
//! A call is a message and its answer, each with a way of its own. Whether a link is cut is looked at when something
//! arrives, so nothing crosses a cut, not even what was sent before it. A call that fails waits out its time. The message
//! is answered by a task of the *target's* boot: the caller's time-out does not end it, the target's crash does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hsm_replication::Node;
use hsm_replication::network::{Answer, Network, PeerFault, sender};
use hsm_replication::runtime::{NodeContext, Rt, SimInstant};
use openraft::AsyncRuntime;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::cluster::plan::Weather;
use crate::cluster::trace::Trace;
use crate::random::Random;

/// A refusal is one octet: which one.
const REFUSAL_BYTES: usize = 1;

/// All links of a cluster.
pub struct Fabric {
    random: Arc<Random>,
    trace: Arc<Trace>,
    state: Mutex<State>,
    /// Answers of members to the machine after the last one that were no refusals.
    heard: AtomicUsize,
}

struct State {
    weather: Weather,
    hosts: Vec<Option<Host>>,
    /// By sender and receiver: nothing arrives.
    cut: Vec<Vec<bool>>,
}

/// A process that answers.
#[derive(Clone)]
pub struct Host {
    /// The node.
    pub node: Arc<Node>,
    /// The boot whose tasks answer.
    pub boot: NodeContext,
}

impl Fabric {
    /// Whole links between so many places.
    pub fn new(places: usize, weather: Weather, random: Arc<Random>, trace: Arc<Trace>) -> Arc<Self> {
        let state = State { weather, hosts: vec![None; places], cut: vec![vec![false; places]; places] };
        Arc::new(Self { random, trace, state: Mutex::new(state), heard: AtomicUsize::new(0) })
    }

    /// The network as the machine at this place sees it.
    pub fn at(self: &Arc<Self>, place: usize) -> Arc<dyn Network> {
        Arc::new(Port { fabric: self.clone(), place })
    }

    /// Under which address a place is known.
    pub fn address(place: usize) -> String {
        format!("machine-{place}:2225")
    }

    fn place(address: &str) -> Option<usize> {
        address.strip_prefix("machine-")?.strip_suffix(":2225")?.parse().ok()
    }

    /// From now on this process answers there; `None`: nobody does.
    pub fn host(&self, place: usize, host: Option<Host>) {
        self.state.lock().hosts[place] = host;
    }

    /// Cuts or heals one direction.
    pub fn cut(&self, from: usize, to: usize, cut: bool) {
        self.state.lock().cut[from][to] = cut;
    }

    /// Heals every link, and makes the weather fine.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.cut.iter_mut().flatten().for_each(|cut| *cut = false);
        (state.weather.lost_one_in, state.weather.tail_one_in) = (0, 0);
    }

    /// Whether what this place sends arrives there.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        !self.state.lock().cut[from][to]
    }

    /// Everybody with whom this place can exchange something, in either direction and through others.
    pub fn component(&self, place: usize) -> Vec<usize> {
        let state = self.state.lock();
        let (mut found, mut next) = (vec![place], 0);
        while let Some(&here) = found.get(next) {
            next += 1;
            let linked = |&there: &usize| !state.cut[here][there] || !state.cut[there][here];
            let new: Vec<_> = (0..state.hosts.len()).filter(|there| !found.contains(there)).filter(linked).collect();
            found.extend(new);
        }
        found
    }

    /// How often members gave the machine at the last place, which belongs to another history, more than a refusal.
    pub fn strangers_heard(&self) -> usize {
        self.heard.load(Ordering::SeqCst)
    }

    /// How long one way takes; `None` = the message is lost.
    fn way(&self) -> Option<Duration> {
        let weather = self.state.lock().weather;
        let drawn = |one_in: u64| one_in > 0 && self.random.once_in(one_in);
        if drawn(weather.lost_one_in) {
            return None;
        }
        let tail = if drawn(weather.tail_one_in) { self.random.below(weather.tail) } else { 0 };
        Some(Duration::from_micros(weather.least + self.random.below(weather.spread) + tail))
    }

    fn is_doubled(&self) -> bool {
        let weather = self.state.lock().weather;
        weather.twice_one_in > 0 && self.random.once_in(weather.twice_one_in)
    }

    /// Carries a message to its place, and the answer back. `None` when either is lost.
    async fn carry(self: Arc<Self>, from: usize, to: usize, message: Arc<Vec<u8>>) -> Option<Vec<u8>> {
        tokio::time::sleep(self.way()?).await;
        let host = self.state.lock().hosts[to].clone()?;
        if !self.reaches(from, to) {
            return None;
        }
        self.trace.note(&message, || format!("{from} -> {to}: {} octets", message.len()));
        let (tell, told) = oneshot::channel();
        let Host { node, boot } = host;
        let answering = async move {
            // What a connection proves is who sent it.
            let speaker = sender(&message).unwrap_or_default();
            let answer = node.answer(speaker, &message).await;
            // Whoever asked may be gone.
            tell.send(answer.ok()).ok();
        };
        boot.run(async { drop(Rt::spawn(answering)) }).await;
        let answer = told.await.ok()??;
        let strange = from + 1 == self.state.lock().hosts.len();
        if strange && answer.len() > REFUSAL_BYTES {
            self.heard.fetch_add(1, Ordering::SeqCst);
        }
        tokio::time::sleep(self.way()?).await;
        self.trace.note(&answer, || format!("{from} <- {to}: {} octets", answer.len()));
        self.reaches(to, from).then_some(answer)
    }
}

/// One machine's end of the network.
struct Port {
    fabric: Arc<Fabric>,
    place: usize,
}

impl Network for Port {
    fn call(&self, member: u64, address: &str, message: Vec<u8>, at_most: Duration) -> Answer {
        let (fabric, from) = (self.fabric.clone(), self.place);
        let to = Fabric::place(address);
        Box::pin(async move {
            let (tell, told) = oneshot::channel();
            let deadline = SimInstant::now() + at_most;
            if let Some(to) = to {
                let message = Arc::new(message);
                if fabric.is_doubled() {
                    drop(tokio::spawn(fabric.clone().carry(from, to, message.clone())));
                }
                // Tasks of the harness, not of the caller's boot: what is on its way arrives although the sender crashes.
                drop(tokio::spawn(async move {
                    if let Some(answer) = fabric.carry(from, to, message).await {
                        // The caller may have given up.
                        tell.send(answer).ok();
                    }
                }));
            }
            match <Rt as AsyncRuntime>::timeout(at_most, told).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(_)) => {
                    <Rt as AsyncRuntime>::sleep_until(deadline).await;
                    Err(PeerFault::Unreachable(member))
                }
                Err(_) => Err(PeerFault::Unreachable(member)),
            }
        })
    }
}
