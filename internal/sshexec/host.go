package sshexec

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Host is where ssh connects to. Name may be an alias of ssh's configuration.
type Host struct {
	User string // "": whom ssh takes
	Name string
	Port int // 0: what ssh takes
}

// ParseHost parses "[user@]host[:port]"; an IPv6 address stands in brackets.
// Names and users that ssh, or a shell that its configuration runs, could take for
// anything else are refused.
func ParseHost(s string) (Host, error) {
	h, err := parseHost(s)
	if err != nil {
		return Host{}, fmt.Errorf("ssh host %q: %w", s, err)
	}
	return h, nil
}

func parseHost(s string) (h Host, err error) {
	name := s
	if at := strings.LastIndexByte(s, '@'); at >= 0 {
		h.User, name = s[:at], s[at+1:]
		if err := checkWord("user", h.User); err != nil {
			return h, err
		}
	}
	port := ""
	if rest, ok := strings.CutPrefix(name, "["); ok {
		var closed bool
		if name, port, closed = strings.Cut(rest, "]"); !closed || port != "" && port[0] != ':' {
			return h, errors.New("want [address] or [address]:port")
		}
		if address, _, _ := strings.Cut(name, "%"); net.ParseIP(address) == nil || !strings.Contains(address, ":") {
			return h, errors.New("not an IPv6 address in the brackets")
		}
	} else if colon := strings.IndexByte(name, ':'); colon >= 0 {
		if name, port = name[:colon], name[colon:]; strings.Count(port, ":") > 1 {
			return h, errors.New("more than one colon: an IPv6 address needs brackets")
		}
	}
	if port != "" {
		n, err := strconv.ParseUint(port[1:], 10, 16)
		if err != nil || n == 0 {
			return h, errors.New("port: want a number from 1 to 65535")
		}
		h.Port = int(n)
	}
	h.Name = name
	return h, checkWord("host", name)
}

// unsafe are the characters with a meaning to shells and in paths. ssh's
// configuration may put the words that they are in into commands.
const unsafe = "'\"`\\$;&<>|(){}*?!#/,"

func checkWord(what, s string) error {
	switch {
	case s == "":
		return errors.New(what + " is empty")
	case s[0] == '-':
		return errors.New(what + " begins with -")
	case !utf8.ValidString(s):
		return errors.New(what + " is not UTF-8")
	}
	for _, r := range s {
		if unicode.IsSpace(r) || !unicode.IsGraphic(r) || strings.ContainsRune(unsafe, r) {
			return fmt.Errorf("%s contains %q", what, r)
		}
	}
	return nil
}

// String returns the form that [ParseHost] parses.
func (h Host) String() string {
	s := h.Name
	if strings.Contains(s, ":") {
		s = "[" + s + "]"
	}
	if h.User != "" {
		s = h.User + "@" + s
	}
	if h.Port != 0 {
		s += ":" + strconv.Itoa(h.Port)
	}
	return s
}

// args returns the arguments of ssh that name the host.
func (h Host) args(options ...string) []string {
	var args []string
	if h.Port != 0 {
		args = append(args, "-p", strconv.Itoa(h.Port))
	}
	args = append(append(args, options...), "--")
	if h.User != "" {
		return append(args, h.User+"@"+h.Name)
	}
	return append(args, h.Name)
}

// check refuses what ParseHost would, for a Host made by hand.
func (h Host) check() error {
	if h.User != "" {
		if err := checkWord("user", h.User); err != nil {
			return fmt.Errorf("ssh: %w", err)
		}
	}
	if h.Port < 0 || h.Port > 65535 {
		return fmt.Errorf("ssh: port %d: want a number from 1 to 65535", h.Port)
	}
	if err := checkWord("host", h.Name); err != nil {
		return fmt.Errorf("ssh: %w", err)
	}
	return nil
}
