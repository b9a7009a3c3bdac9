package mcast

import "github.com/castorsync/castor/chunker"

// Status is what a sender has done so far.
type Status struct {
	Packets       int64 // of all kinds
	Bytes         int64 // of them on the wire, headers included
	Symbols       int64 // packets with a part of an object
	Repair        int64 // of those, with a repair symbol
	Announcements int64
	Errors        int64   // of loading and sending
	Listeners     int     // in the control groups, now; a host counts once for each
	Objects       int     // that somebody listens to, now
	Loss          float64 // what listeners needed beyond a full pass of late, as a part of it
	Channels      []ChannelStatus
}

// ChannelStatus is what a sender has done for one index.
type ChannelStatus struct {
	Root      chunker.ID
	Listeners int   // hosts, now
	Bytes     int64 // on the wire, for its objects
	Unique    int64 // of its distinct chunks, plain
}

// Status returns what the sender has done on all links so far. It may be called at any
// time; who listens is up to a moment old.
func (s *Sender) Status() Status {
	var st Status
	hosts := map[*channel]int{}
	for _, l := range s.links {
		c := &l.stats
		st.Packets += c.packets.Load()
		st.Bytes += c.bytes.Load()
		st.Symbols += c.symbols.Load()
		st.Repair += c.repair.Load()
		st.Announcements += c.announcements.Load()
		st.Errors += c.errors.Load()
		if a := c.audience.Load(); a != nil {
			st.Objects += a.objects
			st.Loss = max(st.Loss, a.loss)
			for ch, n := range a.channels {
				hosts[ch] += n
				st.Listeners += n
			}
		}
	}
	for _, ch := range s.offered() {
		st.Channels = append(st.Channels, ChannelStatus{ch.root, hosts[ch], ch.sent.Load(), ch.unique})
	}
	return st
}

// Fields returns the figures that a display of progress shows.
func (s Status) Fields() map[string]int64 {
	return map[string]int64{
		"listeners": int64(s.Listeners), "groups": int64(s.Objects), "packets": s.Packets, "repair": s.Repair,
	}
}
