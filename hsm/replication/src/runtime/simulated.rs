//! tokio with everything that chance decides drawn from a seed, and a clock of its own for each node.
//!
//! Only in simulation builds. Every task of a node runs inside its [`NodeContext`], from which openraft's random numbers
//! and instants come; calling it outside of one panics, which finds code of the harness that leaks into a node. A node
//! can be frozen, as a process that was stopped or waits for its disk. What tokio itself decides by chance is drawn from
//! the runtime's `rng_seed`.

use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use openraft::{AsyncRuntime, OptionalSend, TokioRuntime};
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::AbortHandle;

tokio::task_local! {
    static NODE: NodeContext;
}

/// One boot of one node: its random numbers, its clock, its tasks.
#[derive(Clone)]
pub struct NodeContext(Arc<Boot>);

struct Boot {
    random: Mutex<StdRng>,
    tasks: Mutex<Vec<AbortHandle>>,
    frozen: Mutex<Frozen>,
    /// When the node was booted.
    start: tokio::time::Instant,
    /// What its clock showed then, in nanoseconds.
    offset: u64,
    /// How fast its clock runs, in millionths of the true speed.
    speed: u64,
}

/// Why the tasks of a node do not run, and who waits for them to.
#[derive(Default)]
struct Frozen {
    causes: usize,
    waiting: Vec<Waker>,
}

impl NodeContext {
    /// A boot with random numbers from this seed, a clock that starts at `offset` nanoseconds and runs at `speed`
    /// millionths of the true speed (980,000 to 1,020,000).
    pub fn new(seed: u64, offset: u64, speed: u64) -> Self {
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        let start = tokio::time::Instant::now();
        Self(Arc::new(Boot { random, tasks: Mutex::default(), frozen: Mutex::default(), start, offset, speed }))
    }

    /// Runs something as this node.
    pub async fn run<F: Future>(&self, future: F) -> F::Output {
        NODE.scope(self.clone(), future).await
    }

    /// Ends every task of this boot where it stands. Yield afterwards: the tasks are dropped by the runtime.
    pub fn crash(&self) {
        self.0.tasks.lock().drain(..).for_each(|task| task.abort());
    }

    /// The tasks of this boot stand still until as many calls of [`NodeContext::thaw`]. Its clock goes on.
    pub fn freeze(&self) {
        self.0.frozen.lock().causes += 1;
    }

    /// Ends one freeze.
    ///
    /// # Panics
    /// When the node was not frozen.
    pub fn thaw(&self) {
        let waiting = {
            let mut frozen = self.0.frozen.lock();
            frozen.causes = frozen.causes.checked_sub(1).expect("what is thawed was frozen");
            if frozen.causes > 0 { Vec::new() } else { std::mem::take(&mut frozen.waiting) }
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether the tasks of this boot stand still.
    pub fn is_frozen(&self) -> bool {
        self.0.frozen.lock().causes > 0
    }

    /// Polls a task of this boot, unless it stands still.
    fn poll<T>(&self, context: &mut Context<'_>, run: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        {
            let mut frozen = self.0.frozen.lock();
            if frozen.causes > 0 {
                frozen.waiting.push(context.waker().clone());
                return Poll::Pending;
            }
        }
        run(context)
    }

    fn now(&self) -> SimInstant {
        let elapsed = u128::from(u64::try_from(self.0.start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let local = elapsed * u128::from(self.0.speed) / 1_000_000;
        SimInstant(self.0.offset + u64::try_from(local).unwrap_or(u64::MAX))
    }

    /// True time for a span of this clock; a little more, or a timer fires just before its deadline and spins.
    fn stretch(&self, duration: Duration) -> Duration {
        let nanoseconds = duration.as_nanos().min(u128::from(u64::MAX)) * 1_000_000 / u128::from(self.0.speed) + 1;
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

/// A moment on the clock of the current node, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SimInstant(u64);

impl SimInstant {
    /// Now, on the clock of the current node.
    pub fn now() -> Self {
        NODE.with(NodeContext::now)
    }
}

impl openraft::Instant for SimInstant {
    fn now() -> Self {
        NODE.with(NodeContext::now)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for SimInstant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanoseconds(duration)))
    }
}

impl AddAssign<Duration> for SimInstant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for SimInstant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanoseconds(duration)))
    }
}

impl SubAssign<Duration> for SimInstant {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

impl Sub for SimInstant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The random numbers of the current node.
pub struct NodeRandom;

impl rand::RngCore for NodeRandom {
    fn next_u32(&mut self) -> u32 {
        NODE.with(|node| node.0.random.lock().next_u32())
    }

    fn next_u64(&mut self) -> u64 {
        NODE.with(|node| node.0.random.lock().next_u64())
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        NODE.with(|node| node.0.random.lock().fill_bytes(bytes));
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

/// The runtime of a simulation.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SimRt;

impl fmt::Display for SimRt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("simulated")
    }
}

impl AsyncRuntime for SimRt {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = SimInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = NodeRandom;
    type OneshotSender<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotSender<T>;
    type OneshotReceiver<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotReceiver<T>;
    type OneshotReceiverError = <TokioRuntime as AsyncRuntime>::OneshotReceiverError;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let node = NODE.with(Clone::clone);
        let own = node.clone();
        let polled = async move {
            let mut future = std::pin::pin!(future);
            std::future::poll_fn(|context| own.poll(context, |context| future.as_mut().poll(context))).await
        };
        let task = tokio::spawn(NODE.scope(node.clone(), polled));
        let mut tasks = node.0.tasks.lock();
        tasks.retain(|task| !task.is_finished());
        tasks.push(task.abort_handle());
        task
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        tokio::time::sleep(NODE.with(|node| node.stretch(duration)))
    }

    fn sleep_until(deadline: SimInstant) -> Self::Sleep {
        Self::sleep(deadline - SimInstant::now())
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        tokio::time::timeout(NODE.with(|node| node.stretch(duration)), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: SimInstant, future: F) -> Self::Timeout<R, F> {
        Self::timeout(deadline - SimInstant::now(), future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        error.is_panic()
    }

    fn thread_rng() -> NodeRandom {
        NodeRandom
    }

    fn oneshot<T: OptionalSend>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>) {
        TokioRuntime::oneshot()
    }
}
