package mld

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// RecordType is what a [Record] says, RFC 3810, section 5.2.12.
type RecordType uint8

// Types of records. The first two answer a query, the others tell of a change.
const (
	IsInclude RecordType = 1 // listens to the sources only; none: doesn't listen
	IsExclude RecordType = 2 // listens to all but the sources
	ToInclude RecordType = 3 // as IsInclude, from now on
	ToExclude RecordType = 4 // as IsExclude, from now on
	Allow     RecordType = 5 // listens to the sources also
	Block     RecordType = 6 // no longer listens to the sources
)

// Record is what a host says about one group.
type Record struct {
	Type    RecordType // possibly one of the future, to be ignored
	Group   netip.Addr
	Sources []netip.Addr
}

const (
	v1Size     = 24 // version 1 messages: header, delay, group
	reportHead = 8  // version 2 report: header, number of records
	recordHead = 20 // record without sources and auxiliary data
)

// ParseReport returns the records of the report or Done message b, an ICMPv6
// message whose checksum is right. Version 1 messages become the records that
// mean the same. b is not kept.
func ParseReport(b []byte) ([]Record, error) {
	if len(b) < reportHead {
		return nil, errMessage
	}
	switch b[0] {
	case TypeReportV1, TypeDoneV1:
		if len(b) < v1Size {
			return nil, errMessage
		}
		r := Record{Type: ToExclude, Group: addrAt(b[8:])}
		if b[0] == TypeDoneV1 {
			r.Type = ToInclude
		}
		return []Record{r}, nil
	case TypeReport:
		return parseRecords(b[reportHead:], int(binary.BigEndian.Uint16(b[6:])))
	}
	return nil, errMessage
}

func parseRecords(b []byte, n int) ([]Record, error) {
	if n*recordHead > len(b) {
		return nil, fmt.Errorf("%w: %d records in %d bytes", errMessage, n, len(b))
	}
	rs := make([]Record, 0, n)
	for range n {
		if len(b) < recordHead {
			return nil, errMessage
		}
		sources := int(binary.BigEndian.Uint16(b[2:]))
		size := recordHead + 16*sources + 4*int(b[1]) // auxiliary data are counted in words
		if size > len(b) {
			return nil, fmt.Errorf("%w: record of %d bytes, %d left", errMessage, size, len(b))
		}
		rs = append(rs, Record{RecordType(b[0]), addrAt(b[4:]), addrs(b[recordHead:], sources)})
		b = b[size:]
	}
	return rs, nil
}

// AppendReport appends a version 2 report of at most 65535 records, with a
// checksum of 0, which the kernel fills in.
func AppendReport(b []byte, rs []Record) []byte {
	b = append(b, TypeReport, 0, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(rs)))
	for _, r := range rs {
		b = append(b, byte(r.Type), 0)
		b = binary.BigEndian.AppendUint16(b, uint16(len(r.Sources)))
		b = appendAddr(b, r.Group)
		for _, s := range r.Sources {
			b = appendAddr(b, s)
		}
	}
	return b
}

// AppendReportV1 appends a version 1 report, or if done is set, a Done message.
func AppendReportV1(b []byte, group netip.Addr, done bool) []byte {
	typ := byte(TypeReportV1)
	if done {
		typ = TypeDoneV1
	}
	return appendAddr(append(b, typ, 0, 0, 0, 0, 0, 0, 0), group)
}

// change is what a record means for one sender.
type change int

const (
	unchanged change = iota
	joins
	leaves
)

// change returns whether the sender of r listens to what source sends. For an
// invalid source that is so only if r asks for all sources.
func (r *Record) change(source netip.Addr) change {
	listed := source.IsValid() && slices.Contains(r.Sources, source)
	switch {
	case r.Type == IsExclude || r.Type == ToExclude:
		if listed {
			return leaves
		}
		return joins
	case r.Type == IsInclude || r.Type == ToInclude:
		if listed {
			return joins
		}
		return leaves
	case r.Type == Allow && listed:
		return joins
	case r.Type == Block && listed:
		return leaves
	}
	return unchanged
}
