#pragma once

#include <vector>

#include "arrays.hpp"
#include "records.hpp"

namespace netsim {

using Heap = Span<Entry>;

// Links of the fabric, and constants and counts of the run.
struct Network {
  Rules& rules;                // constants of the scenario
  Totals& totals;              // counts of the run
  Span<Link> links;            // all links
  Span<LinkKind> kinds;        // what many links have in common
  Span<int64_t> change_begin;  // rows of the changes of each link's rate; see `netsim.engine.core.fabric.FabricArrays`
  Span<int64_t> change_ps;     // when a rate changes
  Span<int64_t> change_bps;    // the rate from then on; 0 is down
  Span<int64_t> change_since_ps;  // when the first service at that rate began, -1 if none has
  Span<int64_t> longest;          // queues over time; see `netsim.engine.queue_series`
  Table<int64_t> carried;       // bytes of each link over time, no rows if none are recorded; see `netsim.engine.watch`
  Span<int64_t> carried_shape;  // binary logarithm of an interval's picoseconds; intervals in use
  Span<int64_t> keys;           // task whose draws each task uses; empty: its own draws
};

// Senders and receivers of flows.
struct Hosts {
  Span<Flow> flows;         // in the order of their admission
  Span<Ring> rings;         // by link, or by queue of links with queues
  Records settings;         // of congestion control, one record; see `control.hpp`
  Records own;              // what congestion control keeps, by flow
  Span<Pacer> pacers;       // by link; none unless receivers ask for packets
  Heap timers;              // heap of flows' timers and late starts, by flow
  Heap turns;               // heap in which flows admitted together are put in order
  Span<Transmission> sent;  // selective repeat: by row
  Span<uint8_t> arrived;    // selective repeat: whether each packet has arrived, by row
  Span<int64_t> slots;      // row of `samples` of each task, -1 for those that are not recorded; empty if none are
  Cube<int64_t> samples;    // numbers of `netsim.engine.watch.SAMPLE` of each task that is recorded
  Table<int64_t> sampled;   // how many there are; see ``Sampled``
};

// Tasks and their successors.
struct Program {
  Heap begins;             // heap of tasks that begin (2 task), and of those whose messages have arrived (2 task + 1)
  Span<int64_t> bytes;     // of each task
  Span<int64_t> delay_ps;  // of each task
  Span<int32_t> src_host;  // of each task
  Span<int32_t> dst_host;  // of each task
  Span<int8_t> traffic_class;  // of each task
  Span<uint8_t> background;    // whether the run may end without a task
  Span<int64_t> next_begin;    // rows of `next` of each task
  Span<int32_t> next;          // tasks that wait for each task
  Span<int32_t> waits_for;     // how many tasks each task still waits for; less than 0 once it is done
  Span<int32_t> flows_left;    // how many flows of each task are not complete
  Span<int64_t> end_ps;        // when each task was done
  Span<int64_t> released;      // tasks released in this instant; `TOTALS` has their number
  Span<int64_t> stack;         // scratch space for tasks that begin at once
  Span<int32_t> src;           // rank that sends, of each task
  Span<int32_t> dst;           // rank that receives
  Heap sorter;                 // scratch heap in which admission sorts
  Table<int64_t> groups;       // scratch rows of `admission.hpp`, of messages and their groups
  Table<int64_t> routes;       // scratch rows of `admission.hpp`, of a group's routes
  Table<int64_t> seen;         // scratch rows of `admission.hpp`, of links
  Table<int64_t> avoided;      // hash table of routes that have failed flows: first link or -1, leaf, route, until when
  Span<int64_t> queue_pair;    // row of `latest` of the first flow of each task's messages; empty if no state is kept
  Span<int64_t> latest;        // latest flow of each queue pair, -1 if there is none
};

// Routes and the routing's knowledge, from `FabricArrays`, and the state of transports.
struct Routing {
  Span<int64_t> up;            // link from a host to its leaf
  Span<int64_t> down;          // link from its leaf to a host
  Span<int64_t> inside;        // link inside a host
  Span<int64_t> leaf;          // leaf of a host
  Span<int64_t> place;         // place of a host among those of its leaf
  Span<int64_t> pair;          // index of a pair of leaves
  Span<int64_t> route_begin;   // first route of a pair
  Table<int32_t> route_links;  // links of a route
  Span<int64_t> route_length;  // links of a route
  Span<int64_t> minimal;       // minimal routes of a pair, which come first
  Span<int64_t> route_ack_ps;  // how long an acknowledgement takes back on a route without waiting
  Span<int64_t> route_acks;    // acknowledgements that went back on a route without stopping
  Span<uint8_t>
      alike;  // whether all routes of a pair have as many links, and take acknowledgements as long without waiting
  Span<uint8_t> calm;          // whether nothing ever changes on a pair's routes
  Span<int64_t> epoch_ps;      // when the routing's knowledge changes
  Span<int64_t> usable_begin;  // rows of `usable` of a pair and epoch
  Span<int64_t> usable;        // usable routes
  Span<int64_t> counts;        // packets that a host has sent to a leaf, of `DestinationRotation`
  Span<int64_t> child_begin;   // rows of the next two arrays, by node of `netsim.engine.event.switches.tree`
  Span<int64_t> child_link;    // links that lead on
  Span<int64_t> child_node;    // nodes to which they lead
  Span<int64_t> node_route;    // a route that begins with the links to a node
  Span<int64_t> source;        // number of the node at which a link begins
  Span<int32_t> reverse;       // the other direction of a link's cable
  Table<int64_t> shortest;     // of each switch, the last choice, or the remembered links
  Table<int64_t> candidates;   // room for links among which a switch chooses, and their queues
  Table<int64_t> chosen;       // choices of flows: switch, link, next choice of the flow
  Table<int32_t> paths;        // entries of the flows' rings of paths, valid ones and all
};

// Links with queues, in which a pause or a packet of a better class may delay a departure.
struct Queued {
  Span<Queue> queues;     // by link and class
  Span<Waiting> waiting;  // by packet
  Span<Served> served;    // by link
  Span<Switch> switches;  // by node
  Notes& notes;           // notes between the loop and these links
  Span<int64_t> frames;   // queues that are paused or resumed; `notes` has their number
  // Lists of links whose transmissions take equally long, in the order in which they end
  Span<Lane> endings;
  Span<int64_t> quanta;  // see `netsim.engine.protocol.Scene.quanta`
  Table<int64_t> turns;  // see `Turns`
  Span<int64_t> needs;   // room for the bytes of each class's next packet
};

// The state of a run, except the calendar and the packets in flight. `queued` is null where links need no queues.
struct State {
  Network network;
  Hosts hosts;
  Program program;
  Routing routing;
  const Queued* queued;
};

// Calendar of the event engine, and the packets in flight.
struct Flight {
  Heap calendar;  // arrivals, by lane or packet, and hosts' links that look for a packet, by link: see `slots.hpp`
  Slots& slots;
  Span<int32_t> first;    // by slot: the first of its entries, -1 if it has none
  Span<uint64_t> filled;  // bits of the slots that have entries
  Span<Timer> later;      // entries of slots: those that were in use are chained, behind them are fresh ones
  Span<Timer> run;        // scratch space, then as much for entries of the open slot, and one that is never due
  Span<Lane> lanes;       // by link
  Span<Packet> packets;   // those not in use are chained by `next`
};

// Calendar, packets and the open window, as a thread sees them; see `wheel_of`.
struct Wheel {
  Window& window;  // the window that is open
  // Number of packets that the thread has put into the buckets of a window; window k has entry k mod the number of
  // entries, a power of two
  Span<int32_t> due;
  Span<Bucket> buckets;  // by entry of `due` and region
  // Chunks of the thread whose packets it deals with, of hosts until the end of the window, and of
  // the region of switches
  Span<Used> used;
  // Chunks of other threads with whose packets this thread is done, by kind of region and thread
  Span<Used> returned;
  Span<Arrival> found;     // arrivals of the window, as they were found, then scratch space
  Span<Arrival> arrivals;  // the same arrivals by unit, sorted once the unit deals with them
  Span<int64_t> places;    // whole numbers for sorting
  // If the run ends with background traffic under way: data at all receivers, sorted
  Span<Arrival> receipts;
  // Units with arrivals in this window and region, and switches where transmissions end; one more than there are units
  Span<int32_t> touched;
  Span<int32_t> woken;       // switches where transmissions end in this window
  Span<int32_t> active;      // hosts' links with something to do in this window
  Span<int32_t> pending;     // units that have something to do on their own in a later window
  Span<Timer> timers;        // those that were in use are chained, and behind them are only fresh ones
  Heap ends;                 // heap of ends of transmissions in this window at a switch where their order matters
  Packet& scratch;           // the packet that leaves a host
  Span<int16_t> region;      // region of each unit
  Span<int32_t> owners;      // thread that deals with each region
  Span<Packet> packets;      // in chunks
  Span<int32_t> next_chunk;  // the chunk after each, in its bucket or among those that are free
  Span<Unit> units;          // links, then switches
  Span<Ending> endings;      // by switch, if links have queues
  Heap inside;               // heap of what happens at links inside hosts, all of which are the leader's
  Span<Packet> held;         // packets that wait in queues; `Notes.packet` is the first free one of a thread
  Span<int32_t> next_held;   // the free record after each
  Span<int64_t> meetings;    // a row of numbers of each thread, then how often threads have come to a meeting
};

// Calendar, packets and the open window, as a thread sees them; see `wheel_of`.
struct Wheels {
  Table<Window> window;  // the window that is open
  // Number of packets that the thread has put into the buckets of a window; window k has entry k mod the number of
  // entries, a power of two
  Table<int32_t> due;
  Table<Bucket> buckets;  // by entry of `due` and region
  // Chunks of the thread whose packets it deals with, of hosts until the end of the window, and of
  // the region of switches
  Table<Used> used;
  // Chunks of other threads with whose packets this thread is done, by kind of region and thread
  Table<Used> returned;
  Table<Arrival> found;     // arrivals of the window, as they were found, then scratch space
  Table<Arrival> arrivals;  // the same arrivals by unit, sorted once the unit deals with them
  Table<int64_t> places;    // whole numbers for sorting
  // If the run ends with background traffic under way: data at all receivers, sorted
  Table<Arrival> receipts;
  // Units with arrivals in this window and region, and switches where transmissions end; one more than there are units
  Table<int32_t> touched;
  Table<int32_t> woken;      // switches where transmissions end in this window
  Table<int32_t> active;     // hosts' links with something to do in this window
  Table<int32_t> pending;    // units that have something to do on their own in a later window
  Table<Timer> timers;       // those that were in use are chained, and behind them are only fresh ones
  Table<Entry> ends;         // heap of ends of transmissions in this window at a switch where their order matters
  Table<Packet> scratch;     // the packet that leaves a host
  Span<int16_t> region;      // region of each unit
  Span<int32_t> owners;      // thread that deals with each region
  Span<Packet> packets;      // in chunks
  Span<int32_t> next_chunk;  // the chunk after each, in its bucket or among those that are free
  Span<Unit> units;          // links, then switches
  Span<Ending> endings;      // by switch, if links have queues
  Heap inside;               // heap of what happens at links inside hosts, all of which are the leader's
  Span<Packet> held;         // packets that wait in queues; `Notes.packet` is the first free one of a thread
  Span<int32_t> next_held;   // the free record after each
  Span<int64_t> meetings;    // a row of numbers of each thread, then how often threads have come to a meeting
  std::vector<Wheel> of_thread = {};  // the wheel of each
};

// Arrays with a row for each thread; the row of the leader is the state's own.
struct Shares {
  Table<Totals> totals;    // see `netsim.engine.event.state.Network`
  Table<int64_t> longest;  // see there
  Table<Entry> begins;  // see `netsim.engine.event.state.Program`: of the others, what the leader has not been told yet
  // As `netsim.engine.event.state.Hosts`: of the hosts of a thread, and of the leader late starts as well
  Table<Entry> timers;
  Cube<int64_t> candidates;  // see `netsim.engine.event.state.Routing`
  Table<Notes> notes;        // see `netsim.engine.event.state.Queued`; no columns where links have no queues
  Table<int64_t> frames;     // see there
  Table<int64_t> needs;      // see there
};

// Flows and links of the flow level, and scratch space.
struct Streams {
  Span<Stream> flows;      // in the order of their admission
  Span<Message> messages;  // further fields of the same flows
  Span<SharedLink> links;
  Span<Departure> ends;   // heap of the active flows
  Span<int32_t> place;    // place of each flow in `ends`, -1 if it is not there
  Span<Rising> affected;  // flows whose rates are settled anew
  // Flows of each host's link, in blocks of which all but the latest are full. The flows of a block are read at the
  // same time; in a chain of flows each read would wait for the one before.
  Span<int32_t> passing;
  Span<int32_t> touched;         // links of the affected flows
  Span<Level> heap;              // heap of links by the rate at which they are full
  Span<int64_t> segment_begin;   // rows of `link` and `share` of each segment: of routes, then of pairs of leaves
  Span<int32_t> link;            // links of segments
  Span<double> share;            // share of the segment's traffic that each carries
  Span<int32_t> segment_first;   // first flow of each segment
  Span<int32_t> segment_newest;  // while rates are filled, place of the latest affected flow of each segment
  Span<int64_t> link_begin;      // rows of `segment` of each link between switches
  Span<int32_t> segment;         // segments that a link is part of
  Span<int64_t> counts;          // by `Count`
};

}  // namespace netsim
