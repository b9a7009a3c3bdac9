// Package archive reads and writes catar archives: a directory tree as one
// stream of bytes that is the same for the same tree.
//
// A [Writer] encodes a tree that is walked in order; a [Reader] decodes it in
// the same order, and either needs memory for the open directories only. A
// [Tree] has random access through the tables that end each directory, so that a
// part of a large archive is read without the rest.
//
// The package knows nothing of files and systems: a [Node] is plain data.
// docs/catar.md says where the verdict on an archive differs from casync's.
package archive
