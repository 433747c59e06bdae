//! The HSMs of one cluster and the shared connections to them: which one a call takes, and opening them anew.
//!
//! With one HSM: one connection while few threads are busy, because one thread alone is served best by a connection
//! alone; a second one from eight busy threads on, because then one group's requests are worked on while the other group
//! wakes up. With several: the nearest that are not lost, and among these by [`crate::choice`]; connections are opened
//! when they are first needed. A call that finds nobody waits out the shortest back-off and tries again, until its
//! deadline; the outcome of an attempt is shared by all threads, so that a dead cluster costs each call one deadline and
//! not a queue of them. Opening and judging HSMs is in [`crate::opening`].

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use hsm_protocol::trace::Trace;
use hsm_protocol::wire;
use rustls::ClientConfig;

use crate::backoff;
use crate::choice::{Draw, choose};
use crate::configuration::{ClusterConfiguration, ConfigurationError};
use crate::connection::{Connection, HsmId, Told};
use crate::counters::LiveCounters;
use crate::error::{Attempt, CallError};
use crate::fork::ForkGuard;
use crate::limits::SPREAD;
use crate::member::{Look, Member, Route};
use crate::opening::Manner;
use crate::roster::Table;
use crate::trust;

/// Busy threads that one connection serves before another one is worth its cost.
const THREADS_PER_CONNECTION: usize = 4;

/// The number of busy threads is taken as the highest seen lately; it falls by one in this many calls.
const PEAK_MEMORY: u32 = 1024;

/// All connections to one cluster, and what was learnt on them.
pub(crate) struct Pool {
    configuration: ClusterConfiguration,
    /// Why the configuration names no address; nothing can be called then.
    fault: Option<String>,
    table: RwLock<Table>,
    /// Members that are lost, and whether there is more than one place to go: copies, to be read without the lock.
    lost: AtomicU32,
    several: AtomicBool,
    /// What makes the choices of this process other than those of its neighbours.
    offset: u64,
    /// The next call's number for the logs. Begins at random, so that processes do not share numbers.
    traces: AtomicU64,
    busy: AtomicU32,
    peak: AtomicU32,
    ticks: AtomicU32,
    /// With what its files were when it was read.
    tls: Mutex<Option<(trust::Files, Arc<ClientConfig>)>>,
    known: Mutex<Known>,
    /// Highest log index that any HSM of this incarnation told.
    index: AtomicU64,
    pub(crate) roster: RosterWatch,
    /// Counts up when a connection opened or failed.
    generation: Mutex<u64>,
    changed: Condvar,
    pub(crate) guard: Arc<ForkGuard>,
    pub(crate) counters: Arc<LiveCounters>,
}

/// What the cluster said of itself.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) hello: Option<Arc<wire::HelloReply>>,
    pub(crate) mechanisms: Option<Arc<Vec<wire::MechanismInfo>>>,
}

/// Whether the roster is still the one that HSMs tell of.
#[derive(Default)]
pub(crate) struct RosterWatch {
    version: AtomicU32,
    index: AtomicU64,
    wanted: AtomicBool,
    /// Not to be asked for again before this.
    pub(crate) next: Mutex<Option<Instant>>,
}

impl RosterWatch {
    /// Looks at what an answer told: three loads as a rule.
    fn note(&self, told: Told) {
        let other = told.roster != 0 && told.roster != self.version.load(Ordering::Relaxed);
        // An HSM that lags tells of an older roster.
        if other && told.index >= self.index.load(Ordering::Relaxed) {
            self.wanted.store(true, Ordering::Relaxed);
        }
    }

    /// Whether an HSM told of a newer one.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Takes the task to ask; `false` = another thread did.
    pub(crate) fn take(&self) -> bool {
        self.wanted.swap(false, Ordering::Relaxed)
    }

    fn set(&self, (version, index): (u32, u64)) {
        self.index.store(index, Ordering::Relaxed);
        self.version.store(version, Ordering::Relaxed);
    }
}

/// What a call finds.
enum Pick {
    /// A connection.
    Open(Route),
    /// Somewhere to connect to.
    Missing(Missing),
    /// Other threads are connecting, or nobody may be tried before that moment.
    Wait(Option<Instant>),
}

/// A place without a connection.
struct Missing {
    member: Arc<Member>,
    place: usize,
    /// Serves if the place cannot be filled.
    spare: Option<Arc<Connection>>,
    manner: Manner,
}

impl Missing {
    fn at(member: &Arc<Member>, place: usize, spare: Option<Arc<Connection>>) -> Self {
        let manner = if spare.is_some() { Manner::Quick } else { Manner::Patient };
        Self { member: Arc::clone(member), place, spare, manner }
    }
}

impl Pool {
    pub(crate) fn new(configuration: ClusterConfiguration) -> Self {
        let (table, fault) = match Table::from_configuration(&configuration) {
            Ok(table) => (table, None),
            Err(reason) => (Table::default(), Some(reason)),
        };
        let pool = Self {
            configuration,
            fault,
            table: RwLock::new(table),
            lost: AtomicU32::new(0),
            several: AtomicBool::new(false),
            offset: backoff::random_number(),
            traces: AtomicU64::new(backoff::random_number()),
            busy: AtomicU32::new(0),
            peak: AtomicU32::new(0),
            ticks: AtomicU32::new(0),
            tls: Mutex::default(),
            known: Mutex::default(),
            index: AtomicU64::new(0),
            roster: RosterWatch::default(),
            generation: Mutex::default(),
            changed: Condvar::new(),
            guard: Arc::new(ForkGuard::new()),
            counters: Arc::default(),
        };
        pool.recount();
        pool
    }

    pub(crate) fn configuration(&self) -> &ClusterConfiguration {
        &self.configuration
    }

    /// Counts a call as busy until the value is dropped.
    pub(crate) fn enter(&self) -> Busy<'_> {
        let busy = self.busy.fetch_add(1, Ordering::Relaxed) + 1;
        let peak = self.peak.load(Ordering::Relaxed);
        if busy > peak {
            self.peak.store(busy, Ordering::Relaxed);
        } else if self.ticks.fetch_add(1, Ordering::Relaxed).is_multiple_of(PEAK_MEMORY) {
            self.peak.store(peak.saturating_sub(1), Ordering::Relaxed);
        }
        Busy(self)
    }

    /// A number for the logs of a call. 0 means none, and is skipped.
    pub(crate) fn new_trace(&self) -> Trace {
        let next = || self.traces.fetch_add(1, Ordering::Relaxed);
        Trace(Some(next()).filter(|&number| number != 0).unwrap_or_else(next))
    }

    /// The index that answers must not be older than.
    pub(crate) fn index(&self) -> u64 {
        self.index.load(Ordering::Acquire)
    }

    /// Notes what an answer told besides its message.
    pub(crate) fn note(&self, told: Told) {
        if told.index > self.index.load(Ordering::Relaxed) {
            self.index.fetch_max(told.index, Ordering::AcqRel);
        }
        self.roster.note(told);
    }

    /// Forgets what belongs to an incarnation of the cluster that is no more.
    pub(crate) fn forget_incarnation(&self) {
        self.index.store(0, Ordering::Release);
        self.change_table(|table| Some(table.without_roster()));
    }

    /// What the cluster said of itself.
    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is more than one place to make a call at.
    pub(crate) fn is_several(&self) -> bool {
        self.several.load(Ordering::Relaxed)
    }

    /// Every member but that one.
    pub(crate) fn all_but(&self, home: HsmId) -> Vec<Arc<Member>> {
        let table = self.table();
        table.everybody().filter(|member| member.identity() != Some(home)).cloned().collect()
    }

    /// Whether a member serves that is none of these.
    pub(crate) fn has_other(&self, avoid: &[Arc<Member>]) -> bool {
        let table = self.table();
        table.tiers.iter().flatten().any(|member| !member.is_lost() && !holds(avoid, member))
    }

    /// A connection for a call of this thread, at a member that is none of `avoid` if there is one; opens it when there is
    /// none. `after_loss`: the call was under way at another HSM that was lost, and many others may have been too.
    ///
    /// # Errors
    /// [`CallError::Unreachable`], or at once when trying again makes no sense.
    pub(crate) fn route(&self, deadline: Instant, avoid: &[Arc<Member>], after_loss: bool) -> Result<Route, CallError> {
        let mut pick = self.pick(avoid);
        if let Pick::Open(route) = pick {
            return Ok(route);
        }
        if let Some(reason) = &self.fault {
            return Err(self.misconfigured(reason.clone()));
        }
        let arrived = Instant::now();
        // One that it cannot be: the first wait looks again at once.
        let mut generation = u64::MAX;
        loop {
            match pick {
                Pick::Open(route) => return Ok(route),
                Pick::Missing(missing) => {
                    if let Some(route) = self.fill(missing, deadline, after_loss) {
                        return Ok(route);
                    }
                }
                Pick::Wait(until) => self.wait_for_change(generation, until.map_or(deadline, |at| at.min(deadline))),
            }
            if let Some(error) = self.lasting_failure(arrived) {
                return Err(error);
            }
            if Instant::now() >= deadline {
                return Err(self.unreachable());
            }
            generation = *self.generation();
            pick = self.pick(avoid);
        }
    }

    /// What a call of this thread would take now.
    fn pick(&self, avoid: &[Arc<Member>]) -> Pick {
        let peak = usize::try_from(self.peak.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        let number = thread_number();
        let table = self.table();
        if self.lost.load(Ordering::Relaxed) > 0
            && let Some((member, manner)) = self.look_after_the_lost(&table)
        {
            return Pick::Missing(Missing { member, place: 0, spare: None, manner });
        }
        // Before anybody is known by name, all threads wait for one connection.
        let own = if table.has_names() { number } else { 0 };
        let draw = Draw { usual: self.offset.wrapping_add(own as u64), random: thread_random(self.offset) };
        let eligible = |member: &Arc<Member>| !member.is_lost() && !holds(avoid, member);
        for tier in &table.tiers {
            let Some(position) = choose(tier.len(), draw, |at| eligible(&tier[at]), |at| tier[at].calls()) else {
                continue;
            };
            let member = &tier[position];
            let allowed = peak / THREADS_PER_CONNECTION / tier.len();
            match member.look(number / tier.len(), allowed) {
                Look::Open(connection) => return Pick::Open(Route::new(Arc::clone(member), connection)),
                Look::Missing { place, spare } => {
                    return Pick::Missing(Missing::at(member, place, spare));
                }
                Look::Opening => {
                    let open = |other: &Arc<Member>| other.any_open().map(|open| Route::new(Arc::clone(other), open));
                    let other = table.tiers.iter().flatten().filter(|other| eligible(other)).find_map(open);
                    return other.map_or(Pick::Wait(None), Pick::Open);
                }
            }
        }
        drop(table);
        if avoid.is_empty() { self.pick_among_lost() } else { self.pick(&[]) }
    }

    /// Nobody serves: whoever may be tried again, the addresses of the configuration included.
    fn pick_among_lost(&self) -> Pick {
        let table = self.table();
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        for member in table.everybody() {
            let at = if member.is_lost() { member.retry_at() } else { now };
            if at <= now {
                match member.look(0, 1) {
                    Look::Open(connection) => return Pick::Open(Route::new(Arc::clone(member), connection)),
                    Look::Missing { place, spare } => {
                        return Pick::Missing(Missing::at(member, place, spare));
                    }
                    // Its outcome is told.
                    Look::Opening => continue,
                }
            }
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        Pick::Wait(next)
    }

    /// Connects, unless another thread is at it; falls back on the spare connection.
    fn fill(&self, missing: Missing, deadline: Instant, after_loss: bool) -> Option<Route> {
        let Missing { member, place, spare, manner } = missing;
        if let Some(claim) = member.claim(place) {
            if matches!(manner, Manner::Patient) && self.others_come_too(after_loss) {
                std::thread::sleep(backoff::part_of(SPREAD));
            }
            if let Some(route) = self.open(&member, claim, deadline, manner) {
                return Some(route);
            }
        }
        spare.map(|spare| Route::new(member, spare))
    }

    /// Whether an HSM was lost, so that the neighbours of this process look for another one at the same moment.
    fn others_come_too(&self, after_loss: bool) -> bool {
        let lost = after_loss || self.lost.load(Ordering::Relaxed) > 0;
        lost && self.is_several() && self.table().has_names()
    }

    /// Waits until a connection opens or fails after `generation`, or the moment comes.
    fn wait_for_change(&self, generation: u64, until: Instant) {
        let mut current = self.generation();
        while *current == generation {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            current = self.changed.wait_timeout(current, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// An error that trying again does not cure: all have failed for good since `arrived`, or the files that the
    /// configuration names are of no use and nobody serves without them.
    fn lasting_failure(&self, arrived: Instant) -> Option<CallError> {
        let table = self.table();
        let mut first = None;
        let mut all = true;
        for member in table.everybody() {
            let failure = member.last_failure().filter(|failure| failure.when >= arrived);
            match failure.and_then(|failure| failure.lasting) {
                Some(error @ CallError::Configuration(_)) => return Some(error),
                Some(error) => first = first.or(Some(error)),
                None => all = false,
            }
        }
        first.filter(|_| all)
    }

    fn unreachable(&self) -> CallError {
        let table = self.table();
        let failures = table.everybody().filter_map(|member| member.last_failure());
        let attempts: Vec<Attempt> = failures.flat_map(|failure| failure.attempts).collect();
        CallError::Unreachable { cluster: self.configuration.label.clone(), attempts }
    }

    pub(crate) fn misconfigured(&self, reason: String) -> CallError {
        let cluster = self.configuration.label.clone();
        CallError::Configuration(ConfigurationError::Value {
            file: "client.toml".into(),
            cluster,
            key: "addresses",
            reason,
        })
    }

    /// The TLS configuration, read from its files again when they are not what they were: a CA or a client certificate is
    /// renewed while the application runs. Files that cannot be read (any more) leave what was read before.
    pub(crate) fn tls(&self) -> Result<Arc<ClientConfig>, CallError> {
        let now = trust::Files::of(&self.configuration);
        let mut tls = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((files, read)) = &*tls
            && *files == now
        {
            return Ok(Arc::clone(read));
        }
        let made = match trust::tls_configuration(&self.configuration) {
            Ok(made) => Arc::new(made),
            Err(error) => {
                let Some((_, read)) = &*tls else { return Err(error) };
                tracing::warn!(%error, "changed files of the configuration cannot be used; those of before are");
                Arc::clone(read)
            }
        };
        *tls = Some((now, Arc::clone(&made)));
        Ok(made)
    }

    // ---- the table ----

    pub(crate) fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the table by what `change` makes of it.
    pub(crate) fn change_table(&self, change: impl FnOnce(&Table) -> Option<Table>) {
        let mut table: RwLockWriteGuard<'_, Table> = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let Some(next) = change(&table) else { return };
        self.roster.set(next.roster());
        let before = std::mem::replace(&mut *table, next);
        drop(table);
        // Connections to members that were removed end here, outside the lock.
        drop(before);
        self.recount();
    }

    /// Refreshes the copies of what the table says, and tells those who wait.
    pub(crate) fn recount(&self) {
        {
            let table = self.table();
            let lost = table.tiers.iter().flatten().filter(|member| member.is_lost()).count();
            self.lost.store(u32::try_from(lost).unwrap_or(u32::MAX), Ordering::Relaxed);
            self.several.store(table.everybody().count() > 1, Ordering::Relaxed);
        }
        *self.generation() += 1;
        self.changed.notify_all();
    }

    fn generation(&self) -> MutexGuard<'_, u64> {
        self.generation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn holds(members: &[Arc<Member>], member: &Arc<Member>) -> bool {
    members.iter().any(|held| Arc::ptr_eq(held, member))
}

/// One call under way.
pub(crate) struct Busy<'a>(&'a Pool);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Spreads threads over connections: counts up from 1, one for each thread that asks.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    // No destructor: one would keep a library from being unloaded.
    thread_local!(static NUMBER: Cell<usize> = const { Cell::new(0) });
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

/// A number for a choice (xorshift64): cheap, and of no worth for secrets.
fn thread_random(seed: u64) -> u64 {
    thread_local!(static STATE: Cell<u64> = const { Cell::new(0) });
    STATE.with(|state| {
        let mut next = match state.get() {
            0 => (seed ^ (thread_number() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1,
            next => next,
        };
        next ^= next << 13;
        next ^= next >> 7;
        next ^= next << 17;
        state.set(next);
        next
    })
}
