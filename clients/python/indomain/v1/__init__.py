"""The wire types of the service `indomain.v1.Editing`, generated from clients/proto (`make proto`); nothing by hand."""
