//! The secrets documents of this worker, and the contexts of the `keys` role that brought them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::host::SharedData;
use crate::keys::documents::Documents;
use crate::plan::pool::Secret;
use crate::shared::cell::SharedCell;
use crate::shared::codec::Found;
use crate::shared::names::DOCUMENTS;
use crate::shared::store::{Change, Store, update};

/// The secrets documents of this worker. Holds secrets: no `Debug`.
pub struct Secrets {
    documents: SharedCell<Documents>,
    /// Contexts of the `keys` role that are configured on this worker.
    keys_roles: Cell<u32>,
}

impl Secrets {
    /// Reads back the documents that were kept last: in a VM that is built anew after a trap the router comes before the
    /// `keys` role, which only an attempt brings.
    pub fn read_back() -> Secrets {
        Secrets { documents: SharedCell::new(kept_documents()), keys_roles: Cell::new(0) }
    }

    /// Returns whether this very copy of a document is in force.
    pub fn has(&self, document: &Rc<[u8]>) -> bool {
        self.documents.with(|held| held.is_in_force(document)) == Some(true)
    }

    /// Puts a document in force, in place of the filter's former one.
    pub fn take(&self, filter: &str, document: &Rc<[u8]>, secrets: BTreeMap<String, Secret>) {
        self.documents.with_mut(|held| held.insert(filter, document, secrets));
    }

    /// Drops this very copy of a document. Returns whether that changes the secrets in force.
    pub fn drop(&self, document: &Rc<[u8]>) -> bool {
        self.documents.with_mut(|held| held.remove(document)) == Some(true)
    }

    /// Returns the secrets in force, by their names.
    pub fn by_name(&self) -> Option<BTreeMap<String, Secret>> {
        self.documents.with(|held| held.secrets())
    }

    /// Keeps the documents in shared data, which no page of Envoy shows, for a VM that has to be built anew.
    pub fn keep(&self) {
        let Some(value) = self.documents.with(|held| held.encode()) else { return };
        let _ = update(&SharedData, DOCUMENTS, &mut |held| {
            if held == Some(value.as_slice()) { Change::Keep(()) } else { Change::Write(value.clone(), ()) }
        });
    }

    /// Counts a context of the `keys` role that was configured (`+1`) or has ended (`-1`).
    pub fn count_keys_role(&self, by: i32) {
        self.keys_roles.set(self.keys_roles.get().saturating_add_signed(by));
    }

    /// Returns whether there is a `keys` role on this worker.
    pub fn has_keys_role(&self) -> bool {
        self.keys_roles.get() > 0
    }
}

fn kept_documents() -> Documents {
    let held = SharedData.get(DOCUMENTS).ok().flatten();
    match Documents::decode(held.as_ref().map(|held| held.bytes.as_slice())) {
        Found::Value(documents) => documents,
        Found::Nothing | Found::Undecodable => Documents::default(),
    }
}
