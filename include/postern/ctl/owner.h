// owner: posternctl run by root acts as the owner of the database folder, so that whatever it makes there belongs to
// the gateway's user and root opens no file in a folder that somebody else may fill with links.
#ifndef POSTERN_CTL_OWNER_H
#define POSTERN_CTL_OWNER_H

#include "postern/base/err.h"

// For good. Of a folder that does not exist yet, the owner is that of the folder it will be made in. Does nothing for
// any other user than root.
PERR_MUST_CHECK int owner_become(const char *dir, struct err_text *e);

#endif
