use crate::{CommitError, Event, Limits, Store, StoreError, WatchError};
use bytes::Bytes;
use minisvc_apimachinery::storage::{Change, Read};
use serde_json::json;
use std::{collections::BTreeSet, sync::Arc};

fn put(key: &str, n: u64) -> Change {
    Change::PutObject { key: key.to_owned(), value: json!({"metadata": {"name": key}, "n": n}) }
}

fn delete(key: &str) -> Change {
    Change::Delete { key: key.to_owned() }
}

async fn commit(store: &Store, changes: Vec<Change>) -> u64 {
    store.commit(move |_| Ok::<_, ()>((changes, ()))).await.unwrap().revision
}

fn number(view: &dyn Read, key: &str) -> Option<u64> {
    let stored = view.get(key)?;
    serde_json::from_slice::<serde_json::Value>(&stored.value).unwrap()["n"].as_u64()
}

fn keys(view: &dyn Read, prefix: &str, after: Option<&str>) -> Vec<String> {
    let mut keys = Vec::new();
    view.scan(prefix, after, &mut |key, _| {
        keys.push(key.to_owned());
        true
    });
    keys
}

fn open(dir: &tempfile::TempDir) -> Store {
    Store::open(&dir.path().join("store"), Limits::default()).unwrap()
}

#[tokio::test]
async fn objects_carry_the_revision_that_wrote_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    assert_eq!(store.view().revision(), 0);
    assert_eq!(commit(&store, vec![put("pods/a/x", 1), put("pods/a/y", 2)]).await, 1);
    assert_eq!(commit(&store, vec![put("pods/a/x", 3)]).await, 2);
    let view = store.view();
    let x = view.get("pods/a/x").unwrap();
    assert_eq!(x.revision, 2);
    let value: serde_json::Value = serde_json::from_slice(&x.value).unwrap();
    assert_eq!(value["metadata"]["resourceVersion"], "2");
    assert_eq!(view.get("pods/a/y").unwrap().revision, 1);
    assert_eq!(view.revision(), 2);
}

#[tokio::test]
async fn nothing_changed_is_no_revision_and_a_view_never_changes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    commit(&store, vec![put("a/1", 1)]).await;
    let before = store.view();
    assert_eq!(commit(&store, vec![]).await, 1);
    assert_eq!(commit(&store, vec![delete("a/absent")]).await, 1);
    // Put and deleted in the same commit: nobody ever sees it.
    assert_eq!(commit(&store, vec![put("a/2", 1), delete("a/2")]).await, 1);
    assert_eq!(commit(&store, vec![delete("a/1")]).await, 2);
    assert_eq!(number(&before, "a/1"), Some(1));
    assert_eq!(number(&store.view(), "a/1"), None);
}

#[tokio::test]
async fn scans_are_ordered_and_end_with_their_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    commit(&store, ["p/b", "p/a", "p/c", "pa", "o/z", "q/a"].iter().map(|key| put(key, 1)).collect()).await;
    let view = store.view();
    assert_eq!(keys(&view, "p/", None), ["p/a", "p/b", "p/c"]);
    assert_eq!(keys(&view, "p/", Some("p/a")), ["p/b", "p/c"]);
    assert_eq!(keys(&view, "p/", Some("a")), ["p/a", "p/b", "p/c"]);
    assert!(keys(&view, "p/", Some("z")).is_empty());
}

#[tokio::test]
async fn refusals_panics_and_bad_changes_touch_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let refused = store.commit(|_| Err::<(Vec<Change>, ()), _>("no"));
    let panicked = store.commit(|_| -> Result<(Vec<Change>, ()), ()> { panic!("on purpose") });
    let bad_object = store.commit(|_| {
        Ok::<_, ()>((vec![put("a/lost", 1), Change::PutObject { key: "a/bad".into(), value: json!(1) }], ()))
    });
    let bad_record = store.commit(|_| {
        Ok::<_, ()>((vec![Change::PutRecord { key: "a/record".into(), value: Bytes::new() }], ()))
    });
    let good = store.commit(|_| Ok::<_, ()>((vec![put("a/good", 1)], 7)));
    let (refused, panicked, bad_object, bad_record, good) =
        tokio::join!(refused, panicked, bad_object, bad_record, good);
    assert!(matches!(refused, Err(CommitError::Refused("no"))));
    assert!(matches!(panicked, Err(CommitError::Panicked)));
    assert!(matches!(bad_object, Err(CommitError::Bad(_))));
    assert!(matches!(bad_record, Err(CommitError::Bad(_))));
    let good = good.unwrap();
    assert_eq!((good.revision, good.value), (1, 7));
    assert_eq!(keys(&good.view, "", None), ["a/good"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_read_modify_writes_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    commit(&store, vec![put("counter", 0)]).await;
    let clients = (0..16).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut revisions = Vec::new();
            for _ in 0..50 {
                let done = store
                    .commit(|view| {
                        let n = number(view, "counter").unwrap() + 1;
                        Ok::<_, ()>((vec![put("counter", n)], n))
                    })
                    .await
                    .unwrap();
                // Acknowledged is visible, and the commit's own view shows what it wrote.
                assert_eq!(number(&done.view, "counter"), Some(done.value));
                assert!(store.view().revision() >= done.revision);
                revisions.push(done.revision);
            }
            revisions
        })
    });
    let mut revisions = BTreeSet::new();
    for client in clients.collect::<Vec<_>>() {
        revisions.extend(client.await.unwrap());
    }
    assert_eq!(number(&store.view(), "counter"), Some(800));
    assert_eq!(revisions, (2..=801).collect::<BTreeSet<u64>>());
}

#[tokio::test]
async fn a_conflict_is_decided_by_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    commit(&store, vec![put("a", 0)]).await;
    let write = |n| {
        store.commit(move |view: &dyn Read| match view.get("a").unwrap().revision {
            1 => Ok((vec![put("a", n)], ())),
            newer => Err(newer),
        })
    };
    let (first, second) = tokio::join!(write(1), write(2));
    assert_eq!(first.unwrap().revision, 2);
    assert!(matches!(second, Err(CommitError::Refused(2))));
    assert_eq!(number(&store.view(), "a"), Some(1));
}

fn told(events: &[Event]) -> Vec<(u64, String, bool, bool)> {
    events.iter().map(|e| (e.revision, e.key.to_string(), e.old.is_some(), e.new.is_some())).collect()
}

#[tokio::test]
async fn watchers_get_their_prefix_in_order_and_can_resume() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    commit(&store, vec![put("a/1", 1)]).await;
    let mut watcher = store.watch("a/", 1).unwrap();
    commit(&store, vec![put("b/1", 1)]).await;
    commit(&store, vec![Change::PutRecord { key: "_a/1".into(), value: Bytes::from_static(b"x") }]).await;
    commit(&store, vec![put("a/1", 2), put("a/2", 1)]).await;
    commit(&store, vec![delete("a/1")]).await;
    let mut events = Vec::new();
    while events.len() < 3 {
        events.extend(watcher.next().await.unwrap());
    }
    let expected = [
        (4, "a/1".to_owned(), true, true),
        (4, "a/2".to_owned(), false, true),
        (5, "a/1".to_owned(), true, false),
    ];
    assert_eq!(told(&events), expected);
    assert_eq!(watcher.revision(), 5);
    let mut resumed = store.watch("a/", 4).unwrap();
    assert_eq!(told(&resumed.next().await.unwrap()), expected[2..]);
    assert_eq!(store.watch("", 6).err(), Some(WatchError::Future { from: 6, current: 5 }));
    // A commit of no interest moves the bookmark all the same.
    let waiting = tokio::spawn(async move {
        let result = watcher.next().await;
        (result.unwrap()[0].revision, watcher.revision())
    });
    commit(&store, vec![put("b/2", 1)]).await;
    commit(&store, vec![put("a/3", 1)]).await;
    assert_eq!(waiting.await.unwrap(), (7, 7));
}

#[tokio::test]
async fn a_slow_watcher_is_told_to_list_again() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { log_events: 10, ..Limits::default() };
    let store = Store::open(dir.path(), limits).unwrap();
    let mut slow = store.watch("a/", 0).unwrap();
    for n in 0..15 {
        commit(&store, vec![put("a/1", n)]).await;
    }
    assert_eq!(slow.next().await.unwrap_err(), WatchError::Compacted { from: 0, floor: 5 });
    assert_eq!(store.watch("a/", 4).err(), Some(WatchError::Compacted { from: 4, floor: 5 }));
    let mut fine = store.watch("a/", 5).unwrap();
    assert_eq!(fine.next().await.unwrap().len(), 10);
}

#[tokio::test]
async fn the_log_is_bounded_by_bytes_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Limits { log_bytes: 4096, ..Limits::default() }).unwrap();
    for n in 0..100 {
        commit(&store, vec![put(&format!("a/{n:0100}"), n)]).await;
    }
    let floor = match store.watch("a/", 0) {
        Err(WatchError::Compacted { floor, .. }) => floor,
        other => panic!("{:?}", other.err()),
    };
    assert!((50..100).contains(&floor), "{floor}");
}

#[tokio::test]
async fn everything_is_there_after_a_restart_large_values_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let large = "x".repeat(3 << 20);
    let object = json!({"metadata": {}, "data": large});
    commit(&store, vec![put("a/1", 1), Change::PutObject { key: "big".into(), value: object }]).await;
    commit(&store, vec![Change::PutRecord { key: "_r".into(), value: Bytes::from_static(b"\0raw") }]).await;
    commit(&store, vec![put("a/2", 2), delete("a/1")]).await;
    let before: Vec<_> = keys(&store.view(), "", None);
    let mut watcher = store.watch("a/", 3).unwrap();
    store.close().await;
    assert_eq!(watcher.next().await.unwrap_err(), WatchError::Closed);
    let closed = store.commit(|_| Ok::<_, ()>((vec![put("late", 1)], ()))).await;
    assert!(matches!(closed, Err(CommitError::Store(StoreError::Closed))));

    let again = open(&dir);
    let view = again.view();
    assert_eq!(view.revision(), 3);
    assert_eq!(keys(&view, "", None), before);
    assert_eq!(view.get("_r").unwrap().value, Bytes::from_static(b"\0raw"));
    assert_eq!(view.get("a/2").unwrap().revision, 3);
    let big: serde_json::Value = serde_json::from_slice(&view.get("big").unwrap().value).unwrap();
    assert_eq!(big["data"], large.as_str());
    // Events before the restart are gone, those after it can be had.
    assert_eq!(again.watch("a/", 2).err(), Some(WatchError::Compacted { from: 2, floor: 3 }));
    let mut watcher = again.watch("a/", 3).unwrap();
    assert_eq!(commit(&again, vec![put("a/3", 1)]).await, 4);
    assert_eq!(watcher.next().await.unwrap()[0].revision, 4);
}

#[tokio::test]
async fn a_second_opener_is_told_who_is_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(&dir);
    let error = Store::open(&dir.path().join("store"), Limits::default()).err().unwrap();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("in use by another process"));
    first.close().await;
    assert!(Store::open(&dir.path().join("store"), Limits::default()).is_ok());
}

#[tokio::test]
async fn what_a_kill_left_half_written_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    // Killed while the store was made.
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("conf"), "segment_size: 52").unwrap();
    let store = open(&dir);
    commit(&store, vec![put("a", 1)]).await;
    store.close().await;
    // Killed while the index of the log was written, when it was opened.
    std::fs::write(path.join("snap.FFFFFFFFFFFFFFFF.generating"), "half an index").unwrap();
    let store = open(&dir);
    assert_eq!(keys(&store.view(), "", None), ["a"]);
}

#[tokio::test]
async fn damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    commit(&store, vec![put("a", 1)]).await;
    store.close().await;
    let db = sled::open(dir.path().join("store")).unwrap();
    db.open_tree("state").unwrap().insert("short", b"1234").unwrap();
    db.flush().unwrap();
    drop(db);
    let error = Store::open(&dir.path().join("store"), Limits::default()).err().unwrap();
    assert!(matches!(&error, StoreError::Damaged { key, .. } if key == "short"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_watchers_all_see_the_same_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let expected = 200;
    let watchers: Vec<_> = (0..20)
        .map(|_| {
            let mut watcher = store.watch("a/", 0).unwrap();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while seen.len() < expected {
                    seen.extend(watcher.next().await.unwrap().into_iter().map(|e| (e.revision, e.key)));
                }
                seen
            })
        })
        .collect();
    let writers = (0..4).map(|w| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..50 {
                commit(&store, vec![put(&format!("a/{w}-{n}"), n)]).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let mut orders: BTreeSet<Vec<(u64, Arc<str>)>> = BTreeSet::new();
    for watcher in watchers {
        orders.insert(watcher.await.unwrap());
    }
    assert_eq!(orders.len(), 1);
    assert!(orders.first().unwrap().is_sorted());
}
