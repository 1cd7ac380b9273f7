//! A store that fails on order: faults are queued per operation and name, and each is used once, first in first out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;

use crate::object::{
    ByteRange, Capabilities, ErrorClass, ListPage, ObjectError, ObjectMeta, ObjectName, ObjectStore, Operation,
    Outcome, PutNew,
};

/// What goes wrong with one request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// A transient error; nothing happened.
    FailBefore,
    /// It happens, but the answer is lost: a transient error of unknown outcome.
    FailAfterItHappened,
    /// An error of this class; nothing happened.
    FailWith(ErrorClass),
    /// It waits until it is released, then happens.
    Hold(Hold),
    /// It happens after this time.
    Slow(Duration),
    /// A put stores the first bytes only, a get returns them only (as if complete), a listing gives a shorter page.
    TruncateBody(usize),
    /// A put stores, a get returns, one byte changed (position taken modulo the length).
    WrongBytes {
        /// Which byte.
        offset: usize,
        /// What it is combined with; not zero.
        xor: u8,
    },
}

/// A gate: the test waits until a request has arrived, and lets it go.
#[derive(Debug, Clone, Default)]
pub struct Hold {
    gate: Arc<(Notify, Notify)>,
}

impl Hold {
    /// A closed gate, for one request.
    #[must_use]
    pub fn new() -> Self {
        Hold::default()
    }

    /// Waits until the request stands at the gate.
    pub async fn arrived(&self) {
        self.gate.0.notified().await;
    }

    /// Opens the gate; also in advance.
    pub fn release(&self) {
        self.gate.1.notify_one();
    }

    async fn pass(&self) {
        self.gate.0.notify_one();
        self.gate.1.notified().await;
    }
}

#[derive(Debug)]
struct Entry {
    operation: Operation,
    name_contains: String,
    fault: Fault,
}

/// Injects [`Fault`]s into the store behind it.
#[derive(Debug)]
pub struct ScriptedStore<S> {
    inner: S,
    script: Mutex<VecDeque<Entry>>,
}

impl<S: ObjectStore> ScriptedStore<S> {
    /// Wraps `inner`; without faults it behaves like it.
    pub fn new(inner: S) -> Self {
        ScriptedStore {
            inner,
            script: Mutex::default(),
        }
    }

    /// The store behind, undisturbed.
    #[must_use]
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Queues a fault for the next `operation` on a name (or listed prefix) that contains `name_contains`.
    pub fn push(&self, operation: Operation, name_contains: &str, fault: Fault) {
        self.lock().push_back(Entry {
            operation,
            name_contains: name_contains.to_owned(),
            fault,
        });
    }

    /// Queues a gate.
    pub fn hold(&self, operation: Operation, name_contains: &str) -> Hold {
        let hold = Hold::new();
        self.push(operation, name_contains, Fault::Hold(hold.clone()));
        hold
    }

    /// Faults not used yet: a test should end with none.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault for this request, if any; what comes before the request is done here.
    async fn before(&self, operation: Operation, name: &str) -> Result<Option<Fault>, ObjectError> {
        let fault = {
            let mut script = self.lock();
            let at = script
                .iter()
                .position(|e| e.operation == operation && name.contains(&e.name_contains));
            at.and_then(|at| script.remove(at)).map(|entry| entry.fault)
        };
        let refused = |class| {
            let detail = "scripted: refused before it happened";
            Err(ObjectError::new(operation, name, Outcome::DidNotHappen, class, detail))
        };
        match &fault {
            Some(Fault::FailBefore) => return refused(ErrorClass::Transient),
            Some(Fault::FailWith(class)) => return refused(*class),
            Some(Fault::Hold(hold)) => hold.pass().await,
            Some(Fault::Slow(time)) => tokio::time::sleep(*time).await,
            Some(Fault::FailAfterItHappened | Fault::TruncateBody(_) | Fault::WrongBytes { .. }) | None => {}
        }
        Ok(fault)
    }
}

/// The lost answer, if it is to be lost.
fn after(operation: Operation, name: &str, fault: Option<&Fault>) -> Result<(), ObjectError> {
    match fault {
        Some(Fault::FailAfterItHappened) => {
            let detail = "scripted: the answer was lost";
            Err(ObjectError::new(
                operation,
                name,
                Outcome::Unknown,
                ErrorClass::Transient,
                detail,
            ))
        }
        _ => Ok(()),
    }
}

fn damaged(body: Bytes, fault: Option<&Fault>) -> Bytes {
    match fault {
        Some(Fault::TruncateBody(len)) => body.slice(..body.len().min(*len)),
        Some(Fault::WrongBytes { offset, xor }) if !body.is_empty() => {
            let mut changed = body.to_vec();
            let at = offset % changed.len();
            if let Some(byte) = changed.get_mut(at) {
                *byte ^= xor;
            }
            changed.into()
        }
        _ => body,
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for ScriptedStore<S> {
    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutNew, ObjectError> {
        let fault = self.before(Operation::PutNew, name.as_str()).await?;
        let answer = self.inner.put_new(name, damaged(body, fault.as_ref())).await?;
        after(Operation::PutNew, name.as_str(), fault.as_ref())?;
        Ok(answer)
    }

    async fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, ObjectError> {
        let fault = self.before(Operation::Get, name.as_str()).await?;
        let body = self.inner.get(name, range).await?;
        after(Operation::Get, name.as_str(), fault.as_ref())?;
        Ok(damaged(body, fault.as_ref()))
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>, ObjectError> {
        let fault = self.before(Operation::Head, name.as_str()).await?;
        let meta = self.inner.head(name).await?;
        after(Operation::Head, name.as_str(), fault.as_ref())?;
        Ok(meta)
    }

    async fn list_page(&self, prefix: &str, after_name: Option<&str>, max: usize) -> Result<ListPage, ObjectError> {
        let fault = self.before(Operation::List, prefix).await?;
        let max = match &fault {
            Some(Fault::TruncateBody(len)) => max.min(*len).max(1),
            _ => max,
        };
        let page = self.inner.list_page(prefix, after_name, max).await?;
        after(Operation::List, prefix, fault.as_ref())?;
        Ok(page)
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), ObjectError> {
        let fault = self.before(Operation::Delete, name.as_str()).await?;
        self.inner.delete(name).await?;
        after(Operation::Delete, name.as_str(), fault.as_ref())
    }

    async fn keep_locked(&self, name: &ObjectName) -> Result<(), ObjectError> {
        let fault = self.before(Operation::Lock, name.as_str()).await?;
        self.inner.keep_locked(name).await?;
        after(Operation::Lock, name.as_str(), fault.as_ref())
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}
