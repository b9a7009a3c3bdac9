// Package tarfile turns tar files into archives and archives into tar files, without
// unpacking either.
//
// [Export] writes PAX, which has a place for nearly all that an archive says; sockets,
// the attributes of chattr and FAT, subvolumes and project numbers have none. Extended
// attributes, ACLs and labels are written as GNU tar and star do.
//
// [Import] reads what [archive/tar] does: the old tar, ustar, GNU and PAX, sparse files
// included. Compressed ones have to be decompressed on the way. What the entries mean
// is decided as GNU tar does it where it extracts:
//
//   - Slashes at the beginning of a name, and "." in it, count for nothing. A name with
//     ".." in it is an error, and so is one that leads through a symbolic link.
//   - Of several entries of one name the last one counts. A directory that is not empty
//     is not replaced by anything else.
//   - A hard link is one more name of what its target is at that place in the tar.
//   - What follows the end of the tar is ignored.
//   - Global headers are comments. One that sets something for all entries, an entry of
//     a type that is not known, and records of more than 1 MiB for one entry are errors.
//
// Directories that are not in the tar belong to root, have the permissions 0755, and the
// time of the first entry in them. The files by which layers of container images say that
// something is removed (.wh.*) are files.
package tarfile

import "github.com/castorsync/castor/archive"

// Available is what a tar file has a place for.
const Available = archive.All &^ (archive.Chattr | archive.FATAttrs | archive.Subvolume | archive.SubvolumeRO | archive.QuotaProjID | archive.Sockets)
