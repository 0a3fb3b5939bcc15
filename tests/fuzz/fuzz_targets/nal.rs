#![cfg_attr(fuzzing, no_main)]

latentfarm_fuzz::program!(latentfarm_fuzz::nal::check);
