//! Pods with real processes in real namespaces, as root and as an unprivileged user.
//!
//! This binary is its own `minisvc`: it answers to the hidden commands. Each test runs in a child process that is
//! process 1 of new pid, mount and network namespaces (and a user namespace with one user, when rootless), so
//! that whatever a failing test leaves ends with it.
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

#[path = "pods/attach.rs"]
mod attach;
#[path = "pods/cases.rs"]
mod cases;
#[path = "pods/host.rs"]
mod host;
#[path = "pods/http.rs"]
mod http;
#[path = "pods/images.rs"]
mod images;
#[path = "pods/init.rs"]
mod init;
#[path = "pods/limits.rs"]
mod limits;
#[path = "pods/probes.rs"]
mod probes;
#[path = "pods/security.rs"]
mod security;
#[path = "pods/streams.rs"]
mod streams;
#[path = "pods/volumes.rs"]
mod volumes;
#[path = "pods/world.rs"]
mod world;

use std::process::Command;

/// The tests.
const ALL: &[(&str, fn())] = &[
    ("a_container_sees_its_own_world_only", cases::own_world),
    ("a_mapped_image_is_the_root", cases::mapped_image),
    ("an_imported_image_is_a_root_that_stays_as_it_is", images::imported),
    ("users_and_signals_of_images", images::users_and_signals),
    ("an_image_that_is_absent_and_one_in_use", images::absent_and_in_use),
    ("a_container_is_given_another_image", images::another_image),
    ("what_cannot_start_says_why", cases::start_errors),
    ("containers_survive_the_death_of_their_starter", cases::survival),
    ("a_stop_is_polite_then_firm", cases::stop),
    ("ended_containers_are_started_again", cases::restarts),
    ("a_container_dies_with_its_shim", cases::shim_killed),
    ("echo_answers_in_its_network_namespace", cases::echo),
    ("a_pod_may_be_in_the_network_of_its_node", host::in_the_nodes_network),
    ("logs_and_exec_over_http", http::logs_and_exec),
    ("attach_tells_what_is_written_from_then_on", attach::output),
    ("attached_clients_write_to_a_container", attach::input),
    ("standard_input_ends_with_the_first_client", attach::input_once),
    ("a_terminal_is_attached_to", attach::terminal),
    ("a_client_that_hangs_stops_nothing", attach::stuck),
    ("clients_are_counted", attach::many),
    ("port_forward_by_channels", streams::channels),
    ("port_forward_by_spdy", streams::spdy),
    ("users_are_who_they_are_to_be", security::users),
    ("capabilities_are_less_and_more", security::capabilities),
    ("system_calls_are_filtered", security::filters),
    ("root_is_refused", security::non_root),
    ("settings_of_the_pods_namespaces", security::sysctls),
    ("memory_is_limited", limits::memory),
    ("cpu_time_is_limited", limits::cpu),
    ("volumes_are_where_they_must", volumes::places),
    ("links_in_volumes_stay_in_them", volumes::links),
    ("files_of_volumes_change", volumes::news),
    ("init_containers_run_in_order", init::in_order),
    ("an_init_container_that_fails_fails_the_pod", init::failing),
    ("an_init_container_is_tried_again", init::again),
    ("sidecars_come_first_and_go_last", init::sidecars),
    ("sidecars_do_not_keep_a_pod_from_completing", init::completing),
    ("the_next_server_goes_on_initializing", init::survival),
    ("readiness_follows_its_probe", probes::readiness),
    ("a_container_that_does_not_live_is_started_again", probes::liveness),
    ("other_probes_wait_for_the_startup_probe", probes::startup),
    ("a_probe_that_takes_too_long_has_failed", probes::timeouts),
    ("readiness_survives_the_server", probes::survival),
    ("hooks_come_after_the_start_and_before_the_end", probes::hooks),
    ("hooks_that_fail_are_told_of", probes::bad_hooks),
    ("last_words_are_heard", probes::last_words),
];

fn main() {
    if let Some(code) = minisvc_runtime::hidden::run(std::env::args_os()) {
        std::process::exit(code);
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--inside", mode, name] => world::enter(mode, || {
            let (_, body) = ALL.iter().find(|(known, _)| *known == name).expect("a known test");
            body();
        }),
        ["--starter", uid] => cases::starter(uid),
        _ => std::process::exit(outside(&args)),
    }
}

/// Runs the tests that the command line asks for, one after the other.
fn outside(args: &[String]) -> i32 {
    let filter = args.iter().find(|arg| !arg.starts_with('-'));
    let root = nix::unistd::geteuid().is_root();
    let mut failed = 0;
    for (name, _) in ALL {
        for mode in ["root", "rootless"] {
            let full = format!("{name}_{mode}");
            if filter.is_some_and(|part| !full.contains(part.as_str())) {
                continue;
            }
            if args.iter().any(|arg| arg == "--list") {
                println!("{full}: test");
                continue;
            }
            if mode == "root" && !root {
                println!("skipped: {full}: needs root");
                continue;
            }
            let exe = std::env::current_exe().expect("the test binary has a path");
            let output = Command::new(exe).args(["--inside", mode, name]).output().expect("run a test");
            let text = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            let result = match output.status.code() {
                Some(0) => "ok",
                Some(world::SKIPPED) => "skipped",
                _ => {
                    failed += 1;
                    "FAILED"
                }
            };
            println!("test {full} ... {result}");
            let shown = text.lines().filter(|line| {
                result == "FAILED" || line.starts_with("skipped:") || line.starts_with("measured:")
            });
            shown.for_each(|line| println!("    {line}"));
        }
    }
    i32::from(failed > 0)
}
