use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, error::TryRecvError, unbounded_channel};

use crate::run::{Event, EventSink, TimedEvent};

/// Hands each event of a run, with its time, to all who listen. All of them get the same events in the same order.
#[derive(Default)]
pub struct Hub {
    listeners: Mutex<Vec<UnboundedSender<Arc<TimedEvent>>>>,
}

impl Hub {
    /// From now on, events also go to this feed.
    pub fn listen(&self) -> Feed {
        let (sender, events) = unbounded_channel();
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        Feed { events }
    }
}

impl EventSink for Hub {
    fn emit(&self, event: Event) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        // The time is taken under the lock, so that times are in the order of the events.
        let event = Arc::new(TimedEvent::now(event));
        // A listener that has ended says why itself; the run goes on without it.
        listeners.retain(|listener| listener.send(event.clone()).is_ok());
    }
}

/// A run's events for one listener, who takes them at his own pace, on a thread that may block. It ends with the [`Hub`].
pub struct Feed {
    events: UnboundedReceiver<Arc<TimedEvent>>,
}

impl Feed {
    /// The next event. When none is waiting, `idle` is called first: it is the time to flush. An error of its ends the feed.
    pub(super) fn next<E>(
        &mut self,
        idle: impl FnOnce() -> Result<(), E>,
    ) -> Result<Option<Arc<TimedEvent>>, E> {
        match self.events.try_recv() {
            Ok(event) => Ok(Some(event)),
            Err(TryRecvError::Disconnected) => Ok(None),
            Err(TryRecvError::Empty) => {
                idle()?;
                Ok(self.events.blocking_recv())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_get_the_same_events_and_one_who_left_is_not_missed() {
        let hub = Arc::new(Hub::default());
        let (mut first, mut second, third) = (hub.listen(), hub.listen(), hub.listen());
        drop(third);
        let tasks: Vec<_> = (0..4)
            .map(|task| {
                let hub = hub.clone();
                std::thread::spawn(move || {
                    for number in 0..100 {
                        hub.emit(Event::MachineStarted { machine: format!("{task}.{number}") });
                    }
                })
            })
            .collect();
        tasks.into_iter().for_each(|task| task.join().unwrap());
        drop(hub);
        let all = |feed: &mut Feed| -> Vec<_> {
            std::iter::from_fn(|| feed.next(|| Ok::<_, ()>(())).unwrap()).collect()
        };
        let events = all(&mut first);
        assert_eq!(events.len(), 400);
        assert_eq!(events, all(&mut second));
        assert!(events.is_sorted_by_key(|event| event.at));
    }
}
