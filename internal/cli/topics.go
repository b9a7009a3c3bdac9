package cli

import "github.com/spf13/cobra"

// topics are pages of help that belong to no command.
func topics() []*cobra.Command {
	return []*cobra.Command{
		{
			Use:   "exit-codes",
			Short: "What the exit codes mean",
			Long: `castor ends with one of these codes:

    0  done
    1  failed
    2  the command line is wrong
    3  a verification found a difference or damage
   10  a store or an index does not exist
   14  a chunk is in none of the stores and seeds, or nowhere right
  130  interrupted by SIGINT (Ctrl-C)
  143  ended by SIGTERM

Any other code is to be treated as a failure. After any code but 0 no output file
has been put in place; what a file or block device holds after an update in place
that failed is completed by running the same command again.`,
		},
		{
			Use:   "stores",
			Short: "How stores, caches and seeds are named and used",
			Long: `A store is a directory, by convention with the suffix .castr, in casync's layout:
the chunk with a given ID is the file ID[:4]/ID.cacnk (zstd; gzip and xz are read)
or ID[:4]/ID (uncompressed).

A store that chunks are got from, and an index, may also be an http:// or https://
URL; user and password for it go into ~/.netrc (or $NETRC). mcast://INTERFACE is the
multicast channel of the index as a store, and mcast://INTERFACE/ROOT or /NAME an
index together with its chunks: see castor help cast.

  -s STORE   may be given several times. Stores are asked in order; one that lacks a
             chunk or holds it damaged is passed over. Without -s it is the store
             in $CASTOR_STORE, else default.castr beside the index.
  -c CACHE   a local store that is asked first, and filled with what was got.
  --seed X   a file or block device with similar content. Its chunks are used
             instead of fetching them. If it lies beside its index (X.caibx, or the
             same name with .caibx as extension) that saves cutting it; naming the
             index does as well. A directory stands for all files in it. The old
             version of the destination is always used.

A seed or a store is never trusted: a chunk that is not what its ID says is got
from elsewhere.`,
		},
		{
			Use:   "environment",
			Short: "Environment variables that castor reads",
			Long: `  CASTOR_STORE   the store to use when no -s is given, in place of default.castr
                 beside the index
  NETRC          file with the credentials for web servers, in place of ~/.netrc;
                 HTTPS_PROXY, HTTP_PROXY and NO_PROXY are obeyed
  GOMAXPROCS     the number of CPUs to use
  GOMEMLIMIT     memory, as in 4GiB, from which on castor would rather be slower
                 than use more (default: 1700MiB, which only the largest indexes
                 come near)`,
		},
	}
}
