package config

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/castorsync/castor/internal/typo"
)

// readTOML adds the entries of a file of castor's.
func (c *Config) readTOML(name string) error {
	b, err := readFile(name)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	abs, err := filepath.Abs(name)
	if err != nil {
		return fmt.Errorf("configuration: %s: %w", name, err)
	}
	entries, err := parseTOML(string(b), &file{c: c, dir: filepath.Dir(abs)})
	if err != nil {
		return atLine(name, err)
	}
	for i := range entries {
		entries[i].file = name
	}
	c.entries = append(c.entries, entries...)
	return nil
}

// atLine returns err with the name of the file and the line.
func atLine(name string, err error) error {
	pe, ok := errors.AsType[toml.ParseError](err)
	if !ok {
		return fmt.Errorf("configuration: %s: %w", name, err)
	}
	what := pe.Message
	if pe.LastKey != "" {
		what = pe.LastKey + ": " + what
	}
	if pe.Position.Line == 0 {
		return fmt.Errorf("configuration: %s: %s", name, what)
	}
	return fmt.Errorf("configuration: %s:%d: %s", name, pe.Position.Line, what)
}

// value reads a value of TOML, so that an error comes with the line.
type value func(v any) error

func (f value) UnmarshalTOML(v any) error { return f(v) }

// parseTOML returns the entries in the order in which they stand in the file.
func parseTOML(text string, f *file) ([]entry, error) {
	var top map[string]toml.Primitive
	md, err := toml.Decode(text, &top)
	if err != nil {
		return nil, err
	}
	decode := func(p toml.Primitive, read func(any) error) error { return md.PrimitiveDecode(p, value(read)) }
	refuse := func(p toml.Primitive, format string, args ...any) error {
		return decode(p, func(any) error { return fmt.Errorf(format, args...) })
	}
	for _, k := range md.Keys() { // in the order of the file, so that the first error is told
		if k[0] != "store" {
			return nil, refuse(descend(&md, top, k), `unknown key: want sections such as [store."https://example.com/*"]`)
		}
	}
	if _, ok := top["store"]; !ok {
		return nil, nil
	}
	stores := map[string]toml.Primitive{}
	if err := isTable(decode, top["store"]); err != nil {
		return nil, err
	}
	if err := md.PrimitiveDecode(top["store"], &stores); err != nil {
		return nil, err
	}
	var entries []entry
	for _, k := range md.Keys() {
		if len(k) < 2 || k[0] != "store" || slices.ContainsFunc(entries, func(e entry) bool { return e.pattern == k[1] }) {
			continue
		}
		section := stores[k[1]]
		if err := isTable(decode, section); err != nil {
			return nil, err
		}
		if err := checkPattern(k[1]); err != nil {
			return nil, refuse(section, "%w", err)
		}
		var values map[string]toml.Primitive
		if err := md.PrimitiveDecode(section, &values); err != nil {
			return nil, err
		}
		e := entry{pattern: k[1]}
		for _, inner := range md.Keys() {
			if len(inner) != 3 || inner[0] != "store" || inner[1] != e.pattern {
				continue
			}
			name := inner[2]
			err := decode(values[name], func(v any) error {
				parse, ok := keys[name]
				if !ok {
					return unknown(name)
				}
				set, err := parse(f, v)
				e.keys, e.set = append(e.keys, name), append(e.set, set)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
		if err := e.check(); err != nil {
			return nil, refuse(section, "%w", err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// descend returns the value of a key. The tables above it need not stand in the file, and
// then have no line.
func descend(md *toml.MetaData, table map[string]toml.Primitive, k toml.Key) toml.Primitive {
	p := table[k[0]]
	for _, name := range k[1:] {
		var inner map[string]toml.Primitive
		if md.PrimitiveDecode(p, &inner) != nil {
			break
		}
		p = inner[name]
	}
	return p
}

func isTable(decode func(toml.Primitive, func(any) error) error, p toml.Primitive) error {
	return decode(p, func(v any) error {
		if _, ok := v.(map[string]any); !ok {
			return errors.New(`want a section such as [store."https://example.com/*"]`)
		}
		return nil
	})
}

func unknown(name string) error {
	plain := strings.ReplaceAll(strings.ToLower(name), "_", "-")
	if k := typo.Nearest(plain, slices.Sorted(maps.Keys(keys))); k != "" {
		return fmt.Errorf("unknown key: is %s meant?", k)
	}
	return errors.New("unknown key")
}

// checkPattern refuses patterns that cannot fit anything, or hold a secret.
func checkPattern(pattern string) error {
	_, rest, isURL := strings.Cut(pattern, "://")
	host, _, _ := strings.Cut(rest, "/")
	switch {
	case pattern == "":
		return errors.New("an empty pattern fits no store")
	case isURL && strings.Contains(host, "@"):
		return errors.New("a pattern has no user: those of URLs are left out when they are compared")
	}
	return nil
}

// check says what does not go together in an entry.
func (e *entry) check() error {
	var s Settings
	for _, set := range e.set {
		set(&s)
	}
	return check(&s, func(key string) bool { return slices.Contains(e.keys, key) })
}
