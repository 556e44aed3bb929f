//! What older versions stored otherwise, made what this one stores.

use crate::{Context, Outcome, kinds::ip_address};
use minisvc_apimachinery::{
    ObjectKey,
    resource::SERVICES,
    storage::{Change, Read},
};
use serde_json::Value;

/// Prefix of the records that addresses of Services had before IPAddresses: address → storage key of the Service.
const CLUSTER_IP_RECORDS: &str = "_clusterips/";

/// The changes that bring a store up to this version; none if it is already. To be committed before anything is served.
pub fn upgrade(ctx: &mut Context<'_>, view: &dyn Read) -> Outcome {
    let mut records = Vec::new();
    view.scan(CLUSTER_IP_RECORDS, None, &mut |key, stored| {
        records.push((key.to_owned(), String::from_utf8_lossy(&stored.value).into_owned()));
        true
    });
    let mut outcome = Outcome::unchanged(Value::Null);
    for (record, owner) in records {
        let address = record.strip_prefix(CLUSTER_IP_RECORDS).and_then(|text| text.parse().ok());
        let service = owner.strip_prefix(&SERVICES.storage_prefix(None)).and_then(|key| key.split_once('/'));
        if let (Some(address), Some((namespace, name))) = (address, service) {
            outcome.changes.push(ip_address::taken(ctx, address, &ObjectKey::new(namespace, name)));
        }
        outcome.changes.push(Change::Delete { key: record });
    }
    outcome
}
