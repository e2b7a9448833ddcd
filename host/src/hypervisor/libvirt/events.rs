//! libvirt's events as a broadcast: the one place with calls into the C library that the `virt` crate does not wrap (its
//! wrappers of the event loop are not used).

use std::{
    ffi::{CStr, c_int, c_void},
    sync::OnceLock,
    thread,
    time::Duration,
};

use tokio::sync::broadcast;
use virt::{connect::Connect, error::Error, sys};

/// How many events may wait for a slow reader. One that falls behind is told so, and looks for itself.
const CAPACITY: usize = 256;

/// Something happened at a hypervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// The state of the domain of this name, or of its guest agent, may have changed.
    Changed(String),
    /// The connection is lost.
    Closed,
}

type Sender = broadcast::Sender<Event>;

/// Starts libvirt's event loop, once in a process. It must run before the first connection is opened.
pub(super) fn start_event_loop() -> Result<(), Error> {
    static STARTED: OnceLock<Result<(), Error>> = OnceLock::new();
    STARTED
        .get_or_init(|| {
            virt::error::clear_error_callback();
            // SAFETY: takes no arguments; `OnceLock` keeps it from being called twice.
            if unsafe { sys::virEventRegisterDefaultImpl() } < 0 {
                return Err(Error::last_error());
            }
            let run = || {
                loop {
                    // SAFETY: the default implementation is registered, and only this thread runs it.
                    if unsafe { sys::virEventRunDefaultImpl() } < 0 {
                        // It failed to wait. Not to spin if it goes on failing.
                        thread::sleep(Duration::from_millis(100));
                    }
                }
            };
            // Without the thread no event would ever come: the error of the system is all that can be told.
            thread::Builder::new()
                .name("libvirt-events".to_owned())
                .spawn(run)
                .map(drop)
                .map_err(|_| Error::last_error())
        })
        .clone()
}

/// Callbacks registered with a connection. They end, and the connection can close, when this is dropped.
pub(super) struct Registration {
    connect: Connect,
    callbacks: Vec<c_int>,
    watches_close: bool,
    sender: Sender,
}

impl Registration {
    /// Registers for the lifecycle events of all domains and of their guest agents, and for the loss of the connection.
    ///
    /// A driver without guest agents or without a connection to lose (`test:///default`) gives no events of these.
    pub(super) fn new(connect: Connect) -> Result<Self, Error> {
        let (sender, _) = broadcast::channel(CAPACITY);
        let mut registration = Self { connect, callbacks: Vec::new(), watches_close: false, sender };
        let lifecycle: unsafe extern "C" fn(_, _, _, _, _) -> _ = on_lifecycle;
        // SAFETY: libvirt calls the callback of an event with that event's signature, as its C API asks callers to cast it
        // (VIR_DOMAIN_EVENT_CALLBACK); `on_lifecycle` has the signature of VIR_DOMAIN_EVENT_ID_LIFECYCLE.
        let lifecycle = unsafe { std::mem::transmute::<LifecycleCallback, GenericCallback>(lifecycle) };
        registration.register(sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle)?;
        let agent: unsafe extern "C" fn(_, _, _, _, _) = on_agent;
        // SAFETY: as above; `on_agent` has the signature of VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE.
        let agent = unsafe { std::mem::transmute::<AgentCallback, GenericCallback>(agent) };
        // Only some drivers have it; `wait_for_agent` says no for domains of the others.
        let _ = registration.register(sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, agent);
        registration.watch_close();
        Ok(registration)
    }

    /// Events from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }

    /// The connection.
    pub(super) fn connect(&self) -> &Connect {
        &self.connect
    }

    fn register(&mut self, event: sys::virDomainEventID, callback: GenericCallback) -> Result<(), Error> {
        let opaque = Box::into_raw(Box::new(self.sender.clone())).cast();
        // SAFETY: the connection is open; a null domain means all domains; `opaque` stays valid until `free_sender` is
        // called with it, which libvirt does once, after the last call of `callback`.
        let id = unsafe {
            sys::virConnectDomainEventRegisterAny(
                self.connect.as_ptr(),
                std::ptr::null_mut(),
                event.cast_signed(),
                Some(callback),
                opaque,
                Some(free_sender),
            )
        };
        if id < 0 {
            let error = Error::last_error();
            // SAFETY: libvirt does not keep, and does not free, what it failed to register.
            unsafe { free_sender(opaque) };
            return Err(error);
        }
        self.callbacks.push(id);
        Ok(())
    }

    fn watch_close(&mut self) {
        let opaque = Box::into_raw(Box::new(self.sender.clone())).cast();
        // SAFETY: as in `register`.
        let result = unsafe {
            sys::virConnectRegisterCloseCallback(
                self.connect.as_ptr(),
                Some(on_close),
                opaque,
                Some(free_sender),
            )
        };
        if result < 0 {
            // SAFETY: as in `register`.
            unsafe { free_sender(opaque) };
        }
        self.watches_close = result == 0;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        for id in &self.callbacks {
            // SAFETY: the connection is open and the callback was registered with it. Each holds a reference to the
            // connection, which would never close otherwise.
            unsafe { sys::virConnectDomainEventDeregisterAny(self.connect.as_ptr(), *id) };
        }
        if self.watches_close {
            // SAFETY: as above.
            unsafe { sys::virConnectUnregisterCloseCallback(self.connect.as_ptr(), Some(on_close)) };
        }
        let _ = self.connect.close();
    }
}

type GenericCallback = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);
type LifecycleCallback =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
type AgentCallback = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void);

unsafe extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: libvirt gives a valid domain and the `opaque` that was registered.
    unsafe { send_changed(domain, opaque) };
    0
}

unsafe extern "C" fn on_agent(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _state: c_int,
    _reason: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt gives a valid domain and the `opaque` that was registered.
    unsafe { send_changed(domain, opaque) };
}

unsafe extern "C" fn on_close(_: sys::virConnectPtr, _reason: c_int, opaque: *mut c_void) {
    // SAFETY: `opaque` is the sender that was registered, not freed yet.
    let sender = unsafe { &*opaque.cast::<Sender>() };
    // Nobody may be listening.
    let _ = sender.send(Event::Closed);
}

/// # Safety
/// `domain` must be valid, and `opaque` a `Sender` that is not freed.
unsafe fn send_changed(domain: sys::virDomainPtr, opaque: *mut c_void) {
    // SAFETY: `domain` is valid; the name belongs to it and is copied at once.
    let name = unsafe {
        let name = sys::virDomainGetName(domain);
        if name.is_null() {
            return;
        }
        CStr::from_ptr(name).to_string_lossy().into_owned()
    };
    // SAFETY: see the function's own conditions. Sending needs no exclusive access.
    let sender = unsafe { &*opaque.cast::<Sender>() };
    // Nobody may be listening.
    let _ = sender.send(Event::Changed(name));
}

unsafe extern "C" fn free_sender(opaque: *mut c_void) {
    // SAFETY: `opaque` came from `Box::into_raw` of a `Sender`, and this is called once for it.
    drop(unsafe { Box::from_raw(opaque.cast::<Sender>()) });
}
