#pragma once

#include <cstdint>

namespace netsim {

enum Recovery : int32_t { NOTHING_LOST, SELECTIVE, GO_BACK_N };
enum LinkErrors : int32_t { FAULTLESS, LOSES, REPEATED };
// Who chooses the path of a packet, and how: pinned to the path of its flow, by its host, or by switches.
enum Choice : int32_t {
  PINNED,
  SPRAY_RANDOM,
  SPRAY_ROUND_ROBIN,
  ROTATION,
  FLOWLET,
  REPS,
  AT_SWITCH,
  DETOURING,
  AT_FIRST_SWITCH
};
// How a switch chooses: the shortest queue, ties in turn or drawn; the shortest of drawn queues; once for each flow.
enum SwitchChoice : int32_t { SHORTEST, SHORTEST_DRAWN, SAMPLED, FLOW_SHORTEST };
// How messages become flows: one flow, a path by packet; one by hash or CRC-32; equal parts by hash; as in ethereal.
enum Admission : int32_t { WHOLE, HASHED, CHECKSUM, PARTS, BALANCED };
// Order of flows that a host releases together.
enum Order : int32_t { DRAWN, ROTATED, AS_GIVEN };
// Why the loop stops: all tasks are done; released messages need room for their flows; a flow's path has failed; a flow
// has timed out; packets, choices or the calendar need room; Python may look at the clock; simulated time is over, or
// too many rounds in a row make no progress.
enum Stop : int32_t { FINISHED, NEEDS_FLOWS, ASKS_FOR_PATH, ASKS_AFTER_TIMEOUT, NEEDS_ROOM, PAUSED, IN_TIME, UNFAIR };

// Stages: no window is open; a window is open, and receivers take packets that have come; tasks begin; switches pass
// packets on; hosts do what is left. GOES_ON: a stage ends, and nothing stops the loop.
enum Stage : int32_t { NEXT, OPEN, TASKS, SWITCHES, REST };
constexpr int64_t GOES_ON = -1;

// Columns of `Hosts.sampled`: samples kept, acknowledgements so far, acknowledgements a sample.
enum Sampled : int32_t { COUNT, SEEN, STRIDE };
// Columns of `Queued.turns`: class whose turn it is; whether it has got its quantum; bytes that each class has left.
enum Turns : int32_t { WHOSE_TURN, GOT_QUANTUM, BYTES_LEFT };

// Value of `Program.waits_for` for a task that is done.
constexpr int64_t DONE = -1;
// Number of bits of a packet's serial and of a flow's id in the key of an event.
constexpr int64_t SERIAL_BITS = 28, FLOW_BITS = 31;
// Entries of the calendar that one event may need besides a pause frame for each queue.
constexpr int64_t ENTRIES_OF_EVENT = 16;
// Links that a switch may draw and remember as candidates.
constexpr int64_t MOST_CANDIDATES = 192;
// Packets in a chunk of the wheel; most parts into which sorting deals arrivals; row length of `Wheels.meetings`.
constexpr int64_t CHUNK = 32, PLACES = 1024, MEETING_ROW = 16;
constexpr int64_t UNLIMITED = INT32_MAX;

// Constants of the scenario, one record.
struct Rules {
  int64_t payload, header, full_wire, ack_wire;
  uint8_t acks_queue, acks_take_time, trims;
  int64_t trimmed_wire, room_bytes;
  uint8_t marks, marks_leaving;
  int32_t errors;
  double error_rate;
  uint64_t error_draws;
  int64_t mark_above, mark_all_above;
  double mark_at_most;
  uint8_t listens, round_robin;
  int32_t order;
  int64_t hosts, leaves, epochs;
  // Whether the run ends although background traffic goes on. Links with queues: number of classes; shared memory of
  // a switch, or -1; alpha in millionths; whether full switches pause links (PFC), and by thresholds that follow the
  // free memory; whether transmissions of one instant end in the order of their links; thresholds of pausing.
  uint8_t ends_early;
  int64_t classes, memory_bytes, alpha;
  uint8_t pauses, dynamic, by_link;
  int64_t pause_above, resume_at, resume_below;
  // Recovery.
  int32_t recovery;
  int64_t timeout_ps, longest_timeout_ps;
  uint8_t estimates;
  int32_t patience;
  int64_t reordering;
  // Until when the loop goes on by itself, and the limit of simulated time; rounds as in
  // `netsim.engine.reference.watching`.
  int64_t end_ps, limit_ps, round_ps, fruitless;
  // Congestion control: the place of its header in `congestion`, and whether receivers ask for packets.
  int32_t congestion;
  uint8_t receivers_ask;
  int64_t fixed_window, notify_ps;
  uint8_t keeps;
  int64_t places;
  // Transport; whether the nth usable path of a pair of leaves is always its nth path.
  int32_t choice;
  uint8_t all_usable;
  int32_t at_switch;
  uint8_t asks_after_timeout;
  int64_t gap_ps, entries, freeze_ps, explore, every, entropies;
  uint8_t in_rounds, forgives_last_link;
  int64_t step_ps, bias_ps, samples, memory;
  uint64_t path_draws;
  // Admission: rule of `cutting.hpp`, and the options and draws of ethereal.
  int32_t admission;
  int64_t parts;
  uint8_t equal_pieces, shuffled, shuffled_groups, staggered;
  int64_t start_delay_ps;
  uint64_t leaf_draws, member_draws, delay_draws, other_draws, entropy_draws, order_draws, mark_draws;
};

// Counts of a run, and what the loop needs when it stops: one record.
//
// `moves_up` is a flow whose timer must move up, but has been taken from the heap for being due soon; -1 for none.
// The last three fields are the state of a round of `netsim.engine.reference.watching`.
//
struct Totals {
  int64_t now_ps, packets, hops, control_hops, dropped, trimmed, marked, width_bits, used, undone, released;
  int64_t flows, rows;
  int32_t free_packet;
  int64_t chosen, asks;
  int32_t moves_up;
  uint8_t progress;
  int64_t refused, fruitless;
};

struct alignas(64) Flow {
  // Four lines of the cache, which are all that most packets need; see `netsim.transport.protocol.Flow`. Two are the
  // sender's: its control, its timer, how many packets may be in flight; packets, transmissions, first sequence never
  // sent; packets in flight, counted as lost, and one more than the highest ever sent; its place in its host's ring.
  int64_t id;
  double packets_window;
  int64_t cut_ps;
  double alpha;
  int64_t next_ps, deadline_ps, window;
  // Eight times the smoothed round trip, and four times its mean deviation; see `netsim.congestion.timeout`.
  int64_t smoothed_8, deviation_4;
  int32_t packets, serial, next, in_flight, lost, sent, oldest, newest, pair, first_route, seen, marked;
  int32_t next_in_ring, fruitless;
  // One line is the sender's too, seldom written: row of the first packet in `Hosts.sent`, key of the flow's draws,
  // size of its last packet, its source host, its class, links of its path, whether all its routes have as many.
  int64_t first_row, key, task, last_wire, wake_ps;
  int32_t up, path, source;
  uint8_t in_ring, timer_runs, alone, given_up, listens, links, even, traffic_class;
  // One line is the receiver's: whether acknowledgements are `express`, that is, go back without stopping at any link,
  // and how long they take, without the links between leaves unless all routes are `alike`; row of the first packet in
  // `Hosts.arrived`; the host's link to which acknowledgements go back, and how many have; packets that have not
  // arrived; go-back-N: the sequence before which all packets have arrived.
  int64_t end_ps, notified_ps, ack_ps, arrival_row;
  int32_t down, back, acks, left, highest, reordered, expected;
  uint8_t express, alike;
  // The rest of the flow: its destination leaf; a sequence before which no packet is lost; go-back-N: the sequence
  // before which all packets have arrived, as far as the sender knows.
  int32_t leaf, lost_from, acked, complained;
  int64_t start_ps, bytes, retransmitted;
  // Transport: the last flowlet; valid entries, and all entries, of the flow's ring of paths; until when it is frozen.
  int64_t flowlet_ps;
  int32_t flowlet_path, valid, valid_begin, kept, kept_begin, chosen;
  int64_t frozen_ps, exploring, unmarked;
};

// A link: when it and its control lane are free, what it has carried, the reverse link, its `LinkKind`, and the first
// packet in flight from it of which `flight.hpp` has not decided yet whether it is marked.
struct alignas(64) Link {
  int64_t free_ps, bytes, busy_ps, longest_ps, lane_free_ps;
  int32_t reverse, kind, unmarked;
  uint8_t varies, at_switch;
};

// What many links have in common; `rate_bps` is nominal and holds at all times unless a link `varies`.
struct alignas(64) LinkKind {
  int64_t delay_ps, rate_bps;
  // At that rate: service of a full packet and of an acknowledgement, room, and thresholds of marking.
  int64_t full_ps, ack_ps, room_ps, mark_ps, mark_all_ps;
  // Time from the end of a packet until the link sends it again; less than 0 if the link has no errors.
  int64_t round_trip_ps;
};

// Flows that take turns at a host's link, and the last packet that the link sent.
//
// The link looks for a packet at `look_ps`, -1 for never; the event engine's calendar knows if `scheduled`. `last_path`
// is -1 if switches choose.
//
struct alignas(64) Ring {
  int32_t first, last;
  int64_t look_ps;
  uint8_t scheduled;
  int64_t sent;
  int32_t last_flow, last_path;
  int64_t last_wire;
  int32_t last_epoch;
};

// Flows that the receiver behind a link will ask for packets in turn, and when it may ask next.
struct Pacer {
  int32_t first, last;
  int64_t next_ps;
  uint8_t runs;
};

// Selective repeat: a packet of a flow, its last transmission, and the packets in flight that left before and after it.
//
// Packets are given by their sequences within the flow, `bits` by the constants of `recovery.hpp`.
//
struct Transmission {
  int32_t last_serial, older, newer;
  uint8_t bits;
};

// Packets in flight on a link, in order of arrival, except the packets of its control lane.
struct Lane {
  int32_t first, last;
};

// A packet, or its acknowledgement, which has passed `hop` of `links` links.
//
// `marked` is 1 if a queue marked the packet, and otherwise what `trimmed` is: 2 if it was trimmed in front of the last
// link and the transport forgives that.
//
// `route` is a row of `FabricArrays.route_links` that agrees with its path so far. `node` is where switches choose; in
// the acknowledgement of a receiver that asks for packets, it is the number of packets that the flow still lacks.
// `next` is the packet behind it in a chain: of a lane in order of arrival, or of records not in use. In the windowed
// engine it is the unit at which the packet arrives, or -1.
//
struct alignas(64) Packet {
  int64_t time_ps, key, sent_ps, wire;
  int32_t flow, route, node, sequence, expected;
  uint8_t hop, links, control, passes, trimmed, marked, refusal, notified;
  int32_t next;
};

// Queue `link * classes + class` of links with queues; see `queues.hpp`.
struct alignas(64) Queue {
  // Packets of a class that wait in front of a link: the first and last, their service time, their bytes, and their
  // bytes with the packet on the link, if memory is shared.
  int32_t first, last;
  int64_t waiting_ps, waiting_bytes, length;
  // PFC: since when the switch behind the link has paused the queue, for how long in all, and whether it is paused.
  int64_t stopped_ps, paused_ps;
  // Bytes that this switch holds from the queue, and may hold, and whether it has sent a pause frame for the queue.
  int64_t held, most;
  uint8_t stopped, pause_sent;
};

// A packet in a queue: when it came, the work that it found, its service time, the work that it joined at the nominal
// rate if the link's rate varies, its size, the queue that it came from, the next packet.
struct Waiting {
  int64_t came_ps, found_ps, work_ps, nominal_ps, wire;
  int32_t source, next;
};

// The packet on a link, and the next link in a list: of links whose transmissions take as long and end later, or of
// links that are `listed` because their switch sends on them (`pending.hpp`).
//
// `packet` is its index where packets are marked as they leave, -1 if it is lost.
// `carried` are the bytes of data that count as carried once the transmission has ended, 0 if the packet is corrupted.
// `kind` is twice the number of the link's rate: full packets take as long on all links of a kind, and so do
// acknowledgements, unless they are `late` because the link repeats them. `pause_delay_ps` is how long a pause frame
// about its queues takes to come back.
//
struct alignas(64) Served {
  int64_t ends_ps, wire, carried;
  uint8_t busy, late, listed;
  int32_t queue, source, next, kind, packet;
  int64_t pause_delay_ps;
};

// Bytes that a switch holds, its memory without headroom, and how many queues it has paused.
struct Switch {
  int64_t used, pool, pauses_sent;
};

// Notes between the loop and links with queues: the record of the packet that an event is about, the link whose
// transmission begins with the event, or -1, and the number of queues that are paused or resumed.
struct Notes {
  int32_t packet, begun, frames;
};

struct Arrival {
  int64_t time_ps, key;
  int32_t place, unit;
};

struct Bucket {
  int32_t first, last, packets;
};

struct Unit {
  int32_t begin, end, first_timer;
  uint8_t active, pending, at_host;
};

struct Ending {
  int64_t ends_ps;
  int32_t first;
};

struct Used {
  int32_t first, last, chunks;
};

struct Timer {
  int64_t time_ps, key;
  int32_t what, next;
};

// Slots of time: the open slot; number of entries; first entry of the run; binary logarithm of a slot's picoseconds;
// first entry that is free again, or -1; first entry that was never in use; whether the calendar's first entry is in
// the run.
struct Slots {
  int64_t open, used, begin;
  int32_t width_bits, free, fresh;
  uint8_t from_run;
};

struct Window {
  int64_t length_ps, end_ps, number, now_ps, in_flight, due_ps, spare, cut_ps;
  int32_t stage, region, regions, place, touched, woken, arrivals, at_hosts, active, pending, receipts;
  int32_t received, awaited, free_chunk, free_chunks, free_timer, timers, by_switch, over, thread, threads;
};

struct Entry {
  int64_t time_ps, key, what;
};

// A flow of the flow level, in a line of the cache: bytes left to send at a time, rate in bytes per picosecond, time in
// the heap of ends, the full link that holds it back, whether it is affected, its places among the flows of its first
// and of its last link in `Streams.passing`, and the next flow of its segment.
struct alignas(64) Stream {
  double left, rate, due_ps;
  int64_t since_ps;
  int32_t up, segment, down, bottleneck, mark, up_place, down_place, following;
};

// Fields of a flow that are seldom read: its message, its times, and the flow of its segment that is ahead of it.
struct alignas(64) Message {
  int64_t id, task, bytes, start_ps, end_ps;
  int32_t ahead;
};

// Columns of `Rising.beside`.
enum { FIRST, BETWEEN, LAST };

// An affected flow: its present and next rate, its links, the full link that will hold it back, and the places, among
// the affected flows, of the next flow of its first link, of its segment and of its last link. Filling reads these
// records alone, since the records of flows are far from each other in memory.
struct alignas(64) Rising {
  double rate, fresh;
  int32_t flow, up, segment, down, bottleneck;
  int32_t beside[3];
};

// A flow, and a time at or before the one when it has sent everything.
struct Departure {
  double due_ps;
  int64_t flow;
};

// A link, and the rate of its flows at which it is full.
struct Level {
  double level;
  int64_t link;
};

// A link: its capacity and load in bytes per picosecond.
//
// While rates are filled: `taken` is the load that is settled, `demand` the shares and `rising` the number of flows
// that are not, `level` the rate at which the link holds flows back, `fastest` the fastest rate on it, `newest` its
// latest affected flow. As filling begins: `kept` is the load of flows that are not affected, `asked` the shares and
// `affected` the number of affected flows. Of flows whose rates stand: none exceeds `most`, and none of the `held`
// flows that the link holds back is below `least`. Of a host's link: `latest` is the place of its latest flow in
// `Streams.passing`, `last_ps` is when a flow has sent its last byte, `rest_ps` the longest remaining latency of such a
// byte.
struct alignas(64) SharedLink {
  double capacity, load, taken, demand, level, fastest;
  int32_t rising, flows, mark, newest;
  double kept, asked, most, least;
  int32_t affected, latest, at_host, held;
  int64_t delay_ps, rate_bps, last_ps, rest_ps;
};

// Entries of `Streams.counts`: flows, active flows, affected flows and allocations; the mark; the latest time of a
// large allocation; whether flows have started since the last allocation, and whether affected ones have left; blocks
// of `passing` that have ever been used, and the first of those that are free again, or -1.
enum Count : int32_t { FLOWS, ACTIVE, AFFECTED, ALLOCATIONS, MARK, SETTLED_PS, STARTED, LEFT, BLOCKS, SPARE };

// Entries of a block of `Streams.passing`, a line of the cache: the block before it or -1, then flows.
constexpr int64_t BLOCK = 16;

}  // namespace netsim
