//! A many-to-one queue between threads that is emptied in one go.
//!
//! The receiver takes everything that waits with one lock and one swap, and a sender wakes it only
//! when it sleeps: under load nobody makes a system call for a hand-over, and batches form by
//! themselves. Senders are never blocked; what bounds each queue is said where it is filled.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub(crate) struct Mailbox<T>(Arc<Shared<T>>);

struct Shared<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
}

struct State<T> {
    items: Vec<T>,
    asleep: bool,
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Mailbox<T> {
    pub(crate) fn new() -> Self {
        let state = Mutex::new(State { items: Vec::new(), asleep: false });
        Self(Arc::new(Shared { state, filled: Condvar::new() }))
    }

    pub(crate) fn send(&self, item: T) {
        let mut state = self.lock();
        state.items.push(item);
        self.wake(state);
    }

    /// Sends all of `items`, leaving it empty.
    pub(crate) fn send_all(&self, items: &mut Vec<T>) {
        if items.is_empty() {
            return;
        }
        let mut state = self.lock();
        state.items.append(items);
        self.wake(state);
    }

    /// Sends without waking: the receiver finds it the next time it looks, which it does at least
    /// once per timer period.
    pub(crate) fn send_quietly(&self, item: T) {
        self.lock().items.push(item);
    }

    /// Takes what waits, in order, into `out`, which must be empty; sleeps until `deadline` if
    /// nothing does (for ever without one).
    pub(crate) fn receive(&self, deadline: Option<Instant>, out: &mut Vec<T>) {
        debug_assert!(out.is_empty(), "the last batch was not handled");
        let mut state = self.lock();
        while state.items.is_empty() {
            state.asleep = true;
            let Some(deadline) = deadline else {
                state = self.0.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.0.filled.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.asleep = false;
        std::mem::swap(&mut state.items, out);
    }

    /// Takes what waits without sleeping.
    #[cfg(feature = "simulation")]
    pub(crate) fn take(&self, out: &mut Vec<T>) {
        out.append(&mut self.lock().items);
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().items.is_empty()
    }

    fn wake(&self, mut state: MutexGuard<'_, State<T>>) {
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        if asleep {
            self.0.filled.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn everything_that_waits_comes_at_once_and_in_order() {
        let mailbox = Mailbox::new();
        mailbox.send(1);
        mailbox.send_quietly(2);
        mailbox.send_all(&mut vec![3, 4]);
        let mut got = Vec::new();
        mailbox.receive(None, &mut got);
        assert_eq!(got, [1, 2, 3, 4]);
    }

    #[test]
    fn an_empty_mailbox_waits_no_longer_than_the_deadline() {
        let mailbox = Mailbox::<u8>::new();
        let mut got = Vec::new();
        mailbox.receive(Some(Instant::now() + Duration::from_millis(5)), &mut got);
        assert!(got.is_empty());
    }

    #[test]
    fn a_sleeping_receiver_is_woken() {
        let mailbox = Mailbox::new();
        let sender = mailbox.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            sender.send(7);
        });
        let mut got = Vec::new();
        mailbox.receive(None, &mut got);
        assert_eq!(got, [7]);
        thread.join().unwrap();
    }
}
