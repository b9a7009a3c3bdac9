// Package tree turns directory trees into archives and back. [Pack] writes a tree
// as an archive, with everything that the features ask for and the system can tell;
// [Scan] offers it as one without writing it, so that it can serve as a seed;
// [Unpack] makes a directory hold what an archive has.
//
// Trees are reached through open directories only: no symbolic link is followed,
// whoever changes the tree meanwhile.
package tree
