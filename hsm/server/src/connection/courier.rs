//! One thread that sends what nobody else is there to send: replies that the log or a worker finished, and the rest of
//! replies for which a socket had no room. It never blocks on one connection, and cuts off clients that take nothing.
//!
//! It must not run requests. [`super::link::Link`] hands connections over; a connection is with the courier at most once.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

use super::link::{Delivery, Link};

/// The courier's side that everybody sees.
pub(crate) struct Courier {
    arrived: Mutex<Vec<Arc<Link>>>,
    bell: OwnedFd,
    stopping: AtomicBool,
    stall_time: Duration,
}

struct Stalled {
    link: Arc<Link>,
    since: Instant,
}

impl Courier {
    /// Starts the thread. `stall_time` = how long a client may take nothing.
    ///
    /// # Errors
    /// When the system refuses the event descriptor or the thread.
    pub(crate) fn start(stall_time: Duration) -> std::io::Result<Arc<Self>> {
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let courier =
            Arc::new(Self { arrived: Mutex::new(Vec::new()), bell, stopping: AtomicBool::new(false), stall_time });
        let its_own = Arc::clone(&courier);
        std::thread::Builder::new().name("courier".into()).spawn(move || its_own.run())?;
        Ok(courier)
    }

    /// Takes over a connection that has something to send.
    pub(crate) fn take(&self, link: Arc<Link>) {
        let mut arrived = self.arrived.lock();
        arrived.push(link);
        let first = arrived.len() == 1;
        drop(arrived);
        if first {
            self.ring();
        }
    }

    /// Ends the thread; what is still unsent stays unsent.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.ring();
    }

    fn ring(&self) {
        // A full counter would mean that the bell is ringing already.
        if let Err(error) = rustix::io::write(&self.bell, &1u64.to_ne_bytes())
            && error != rustix::io::Errno::AGAIN
        {
            tracing::error!(%error, "the courier cannot be woken");
        }
    }

    fn run(&self) {
        let mut stalled: Vec<Stalled> = Vec::new();
        while !self.stopping.load(Ordering::Acquire) {
            self.wait(&stalled);
            let arrived = std::mem::take(&mut *self.arrived.lock());
            let again = std::mem::take(&mut stalled).into_iter().map(|stalled| stalled.link);
            for link in arrived.into_iter().chain(again) {
                if let Delivery::Stalled(since) = link.deliver() {
                    if since.elapsed() >= self.stall_time {
                        tracing::warn!(connection = link.number(), peer = %link.peer(), "cut off: it takes no replies");
                        link.end();
                    } else {
                        stalled.push(Stalled { link, since });
                    }
                }
            }
        }
    }

    /// Sleeps until a connection arrives, a socket has room again, or a client's time is over.
    fn wait(&self, stalled: &[Stalled]) {
        let mut descriptors = Vec::with_capacity(stalled.len() + 1);
        descriptors.push(PollFd::new(&self.bell, PollFlags::IN));
        for waiting in stalled {
            descriptors.push(PollFd::from_borrowed_fd(waiting.link.socket().as_fd(), PollFlags::OUT));
        }
        let timeout = stalled.iter().map(|waiting| self.stall_time.saturating_sub(waiting.since.elapsed())).min();
        let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
        if let Err(error) = rustix::event::poll(&mut descriptors, timeout.as_ref())
            && error != rustix::io::Errno::INTR
        {
            tracing::error!(%error, "the courier cannot wait");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut rung = [0; 8];
        if let Err(error) = rustix::io::read(&self.bell, &mut rung)
            && error != rustix::io::Errno::AGAIN
        {
            tracing::error!(%error, "the courier's bell is broken");
        }
    }
}
